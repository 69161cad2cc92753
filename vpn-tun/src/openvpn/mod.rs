//! OpenVPN, as the distribution has it: started, supervised, and never let near the system.

mod profile;

pub use profile::{MAX_PROFILE, Profile, ProfileError};
