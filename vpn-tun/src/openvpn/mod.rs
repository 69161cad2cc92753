//! OpenVPN, as the distribution has it: started, supervised, and never let near the system.
//!
//! | Module | What it decides or touches |
//! |---|---|
//! | `profile`, `options`, `words` | what a provider's file may say |
//! | `credentials` | user and password |
//! | `management` | what the process says, and what is said back |
//! | `pull`, `pushed` | what a server gave us, as far as the profile takes it |
//! | `process` | the process, and the conversation with it |
//! | `config` | what is said beside the profile |
//! | `runner` | one process after the other: attempts, states |
//! | `transport` | the tunnel: packets |

mod config;
mod credentials;
mod management;
mod options;
mod process;
mod profile;
mod pull;
mod pushed;
mod runner;
mod transport;
mod words;

pub(crate) use process::end_leftovers;

pub use config::OpenVpnConfig;
pub use credentials::{Credentials, CredentialsError, MAX_CREDENTIAL};
pub use profile::{MAX_PROFILE, Profile, ProfileError};
pub use transport::OpenVpnTransport;
