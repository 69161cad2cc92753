use super::*;

const GOOD: &str = "client\ndev tun\nproto udp\nremote vpn.example 1194 # the nearest\n\
    auth-user-pass\ntun-mtu 1400\n<ca>\nup is no option here\n</ca>\n";

#[test]
fn a_providers_file_is_kept_as_it_is() {
    let profile = Profile::parse(GOOD.as_bytes(), Path::new("/p")).expect("good");
    assert_eq!(profile.text(), GOOD);
    assert_eq!(profile.remotes(), ["vpn.example"]);
    assert!(profile.asks_password());
    assert_eq!(profile.mtu(), Some(1400));
    let shown = format!("{profile:?}");
    assert!(!shown.contains("<ca>"), "{shown}");
}

#[test]
fn what_runs_writes_or_takes_over_is_refused_in_every_spelling() {
    for (line, option) in [
        ("up /bin/x", "up"),
        ("  --up /bin/x", "up"),
        ("\"up\" /bin/x", "up"),
        ("\"log\"/etc/x", "log"),
        ("memstats /etc/x", "memstats"),
        ("plugin x.so", "plugin"),
        ("script-security 2", "script-security"),
        ("management 127.0.0.1 7505", "management"),
        ("management-external-key", "management-external-key"),
        ("log-append /etc/x", "log-append"),
        ("cd /", "cd"),
        ("config other", "config"),
        ("daemon", "daemon"),
        ("<plugin>", "plugin"),
        ("setenv opt up /bin/x", "up"),
        ("setenv opt setenv opt plugin x", "plugin"),
    ] {
        let text = format!("remote a\n{line}\n");
        match Profile::parse(text.as_bytes(), Path::new("/p")) {
            Err(ProfileError::Refused { option: told, .. }) => {
                assert_eq!(told, option, "{line}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    // An end that OpenVPN would find in the second piece of a long line.
    let pieces = format!("remote a\n<ca>\n{}</ca>\nup x\n</ca>\n", "x".repeat(255));
    let refused = Profile::parse(pieces.as_bytes(), Path::new("/p"));
    assert!(matches!(refused, Err(ProfileError::LongLine { line: 3 })));
    // Options of one connection are options all the same.
    let inside = "remote a\n<connection>\nremote b\nup x\n</connection>\n";
    let refused = Profile::parse(inside.as_bytes(), Path::new("/p"));
    assert!(matches!(
        refused,
        Err(ProfileError::Refused { line: 4, .. })
    ));
}

/// Lines at which OpenVPN sees a block begin or an option, and a laxer reader does not.
#[test]
fn no_line_is_read_in_another_way_than_openvpn_does() {
    for text in [
        "\\ log /etc/x",
        // OpenVPN is in <ca> until </ca>; others are in <cert>.
        "--<ca>\n<cert>\n</ca>\nlog /etc/x\n--<cert>\n</cert>",
        "<ca> \\#\n<cert>\n</ca>\nlog /etc/x\n<cert> \\#\n</cert>",
        "\u{feff}<ca>\n<cert>\n</ca>\nlog /etc/x",
        // To OpenVPN two words of no meaning each; to others a block.
        "ignore-unknown-option <ca\" </ca\n<ca\" >\nlog /etc/x\n</ca >",
        "ignore-unknown-option <ca\n\"<ca\"\">\"\nlog /etc/x\n</ca>",
        "</ca>\nlog /etc/x\n<//ca>",
        // To OpenVPN these open no block.
        "<ca> x\nlog /etc/x\n</ca>",
        "<ca>\u{a0}\nlog /etc/x\n</ca>",
    ] {
        let text = format!("{text}\nremote a\n");
        let refused = Profile::parse(text.as_bytes(), Path::new("/p"));
        assert!(
            matches!(
                refused,
                Err(ProfileError::NotAnOption { .. } | ProfileError::Refused { .. })
            ),
            "{text}: {refused:?}"
        );
    }
}

#[test]
fn a_link_beside_the_profile_leads_nowhere_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (inner, secret) = (folder.join("p"), folder.join("secret"));
    std::fs::create_dir(&inner).expect("made");
    std::fs::write(&secret, "root\nx\n").expect("written");
    std::os::unix::fs::symlink(&secret, inner.join("link")).expect("linked");
    std::fs::write(inner.join("file"), "a\nb\n").expect("written");
    std::os::unix::fs::symlink("file", inner.join("within")).expect("linked");
    let path = inner.join("x.ovpn");
    let read = |line: &str| {
        std::fs::write(&path, format!("remote a\n{line}\n")).expect("written");
        Profile::read(&path)
    };
    let refused = read("ca link");
    assert!(matches!(
        refused,
        Err(ProfileError::Elsewhere { line: 2, .. })
    ));
    let asks = |line| read(line).expect("good").asks_password();
    assert!(asks("auth-user-pass link"));
    assert!(!asks("auth-user-pass within"));
    assert!(!asks("ca within"));
}

#[test]
fn a_pipe_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo").success());
    let error = Profile::read(&path);
    assert!(matches!(error, Err(ProfileError::Read { .. })), "{error:?}");
}

/// A password file is sent to the server: it must not be any file of this host.
#[test]
fn only_files_beside_the_profile_are_read() {
    for line in [
        "pkcs12 ../other/secret",
        "ca a/../../b",
        "http-proxy proxy 8080 /etc/passwd",
    ] {
        let text = format!("remote a\n{line}\n");
        let refused = Profile::parse(text.as_bytes(), Path::new("/p"));
        assert!(
            matches!(refused, Err(ProfileError::Elsewhere { line: 2, .. })),
            "{line}: {refused:?}"
        );
    }
    for line in [
        "ca ca.crt",
        "cert ./keys/me.crt",
        "tls-auth ta.key 1",
        "auth-user-pass /p/me.txt",
    ] {
        let text = format!("remote a\n{line}\n");
        let profile = Profile::parse(text.as_bytes(), Path::new("/p"));
        assert!(!profile.expect("good").asks_password(), "{line}");
    }
}

#[test]
fn credentials_elsewhere_have_to_be_given() {
    for line in [
        "auth-user-pass",
        "auth-user-pass /etc/shadow",
        "auth-user-pass ../other/secret",
    ] {
        let text = format!("remote a\n{line}\n");
        let profile = Profile::parse(text.as_bytes(), Path::new("/p"));
        assert!(profile.expect("good").asks_password(), "{line}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let of = |bytes: &[u8]| Profile::parse(bytes, Path::new("/p"));
    let parse = |text: &str| of(text.as_bytes());
    let alone = parse("client\n");
    assert!(matches!(alone, Err(ProfileError::NoRemote)));
    let tap = parse("remote a\ndev tap0\n");
    assert!(matches!(tap, Err(ProfileError::Tap { line: 2 })));
    let open = parse("remote a\n<ca>\nx\n");
    assert!(matches!(open, Err(ProfileError::OpenBlock { line: 2, .. })));
    let not_text = of(b"remote a\n\xff\n");
    assert!(matches!(not_text, Err(ProfileError::NotText { line: 2 })));
    let long = parse(&format!("remote {}\n", "a".repeat(300)));
    assert!(matches!(long, Err(ProfileError::LongLine { line: 1 })));
    let whole = of(&vec![b'#'; MAX_PROFILE + 1]);
    assert!(matches!(whole, Err(ProfileError::TooLong { .. })));
}
