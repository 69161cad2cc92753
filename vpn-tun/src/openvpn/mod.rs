//! OpenVPN, as the distribution has it: started, supervised, and never let near the system.

mod management;
mod profile;
mod pushed;

pub use management::Credentials;
pub use profile::{MAX_PROFILE, Profile, ProfileError};
