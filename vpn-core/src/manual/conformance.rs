//! How to check an implementation of a trait against the trait's contract.
//!
//! The kit ([`testing::conformance`](crate::testing::conformance), feature `testing`) has a suite for
//! each trait. Write a fixture: your implementation, and a way to play what is on its other side.
//! Give the suite a function that makes one; each clause of the contract gets a fresh one. What is
//! broken comes back as a [`Violation`](crate::testing::conformance::Violation): the clause, and what
//! was seen.
//!
//! Here for the device in memory, whose other side are applications:
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # mod sample {
//! use async_trait::async_trait;
//! use vpn_core::TunDevice;
//! use vpn_core::testing::conformance::{DeviceFixture, FarEnd, number_of, numbered, tun_device};
//! use vpn_core::testing::{AppSide, MemoryDevice, memory_device};
//!
//! struct Fixture {
//!     device: MemoryDevice,
//!     apps: AppSide,
//! }
//!
//! #[async_trait]
//! impl FarEnd for Fixture {
//!     /// An application sends a packet that carries this number.
//!     async fn send(&self, number: u16) {
//!         assert!(self.apps.inject(&numbered(number)).is_ok());
//!     }
//!
//!     /// The number of the next packet that reaches the applications.
//!     async fn receive(&self) -> u16 {
//!         let packet = self.apps.take_wait().await.expect("the device is open");
//!         number_of(packet.bytes()).expect("a packet of the suite")
//!     }
//! }
//!
//! impl DeviceFixture for Fixture {
//!     fn device(&self) -> &dyn TunDevice {
//!         &self.device
//!     }
//! }
//!
//! # pub
//! async fn my_device_keeps_the_contract() {
//!     let make = async || {
//!         let (device, apps) = memory_device(16, 1500);
//!         Fixture { device, apps }
//!     };
//!     if let Err(violation) = tun_device(make).await {
//!         panic!("{violation}");
//!     }
//! }
//! # }
//! # #[cfg(feature = "testing")]
//! # tokio::runtime::Builder::new_current_thread()
//! #     .build()
//! #     .unwrap()
//! #     .block_on(sample::my_device_keeps_the_contract());
//! ```
//!
//! A device that forgets who waits when it is closed would end that test with
//!
//! ```text
//! TunDevice: broken: closing wakes who waits, with the error Closed; readable, called before, never returned
//! ```
//!
//! # What a fixture can say
//!
//! | Method | Say so when |
//! |---|---|
//! | `patience` | a kernel, a thread or a network has a part in it: sleep for some seconds |
//! | `packet`, `number` | packets look otherwise, or the system adds some of its own |
//! | `refused` | another packet than one that is too large is refused, or none is |
//! | `fills_up` | it never says "full", as a kernel's device that drops instead |
//!
//! A transport's fixture also lets its peer [`answer`], since a transport may not be up before; a
//! rule source's edits and damages the rules; a resolver's knows whose flows are whose.
//!
//! The kit cannot stop a call that blocks its thread for ever: run it in a test that is ended from
//! outside.
//!
//! [`answer`]: crate::testing::conformance::TransportFixture::answer
