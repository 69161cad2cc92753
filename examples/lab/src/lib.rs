//! Network labs in namespaces.
