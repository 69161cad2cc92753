//! Any text as a file of rules: refused with its place, or rules that compile.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vpn_core::{DropReason, TunnelId};
use vpn_routing::rules::{CompiledRules, Target};
use vpn_routing::source::TomlRules;

fuzz_target!(|text: &str| {
    match TomlRules::parse(Path::new("fuzz.toml"), text) {
        Err(error) => assert!(error.to_string().contains("fuzz.toml"), "{error}"),
        Ok(snapshot) => {
            let names = |name: &str| (name == "uk").then_some(TunnelId::new(0));
            let block = Target::Block(DropReason::BlockedByDefault);
            let compiled = CompiledRules::compile(&snapshot, &names, block);
            if let Ok(compiled) = compiled {
                assert_eq!(compiled.len(), snapshot.rules.len());
            }
        }
    }
});
