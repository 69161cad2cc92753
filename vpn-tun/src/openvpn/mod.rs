//! OpenVPN, as the distribution has it: started, supervised, and never let near the system.
//!
//! | Module | What it decides or touches |
//! |---|---|
//! | `profile` | what a provider's file may say |
//! | `credentials` | user and password |
//! | `management` | what the process says, and what is said back |
//! | `pushed` | what a server gave us |
//! | `process` | the process, and the conversation with it |
//! | `transport` | the tunnel: states, attempts, packets |

mod credentials;
mod management;
mod process;
mod profile;
mod pushed;
mod transport;

pub(crate) use process::end_leftovers;

pub use credentials::{Credentials, CredentialsError};
pub use profile::{MAX_PROFILE, Profile, ProfileError};
pub use transport::{OpenVpnConfig, OpenVpnTransport};
