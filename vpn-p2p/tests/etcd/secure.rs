//! TLS with certificates of both sides, and users.

use std::path::PathBuf;

use super::server::{Server, is_there};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use vpn_p2p::directory::{EtcdTls, EtcdUser};

struct Papers {
    folder: PathBuf,
    ca: Vec<u8>,
    client: (Vec<u8>, Vec<u8>),
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    let body = lines.join("\n");
    format!("-----BEGIN {what}-----\n{body}\n-----END {what}-----\n")
}

/// An authority, and certificates of the server and of one client.
fn papers(name: &str) -> Papers {
    let folder = std::env::temp_dir().join(format!("etcd-papers-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        (
            pem("CERTIFICATE", certificate.der()),
            pem("PRIVATE KEY", &key.serialize_der()),
        )
    };
    let (server, client) = (issue("etcd.example"), issue("node.example"));
    for (file, text) in [
        ("ca", pem("CERTIFICATE", ca.der())),
        ("cert", server.0),
        ("key", server.1),
    ] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    Papers {
        folder,
        ca: pem("CERTIFICATE", ca.der()).into_bytes(),
        client: (client.0.into_bytes(), client.1.into_bytes()),
    }
}

#[tokio::test]
async fn certificates_of_both_sides_are_asked_for() {
    if !is_there() {
        return;
    }
    let (papers, others) = (papers("own"), papers("other"));
    let file = |name: &str| papers.folder.join(name).display().to_string();
    let options = [
        format!("--cert-file={}", file("cert")),
        format!("--key-file={}", file("key")),
        format!("--trusted-ca-file={}", file("ca")),
        "--client-cert-auth".to_owned(),
    ];
    let server = Server::start_with("https", &options).await.unwrap();
    let mut config = config(server.endpoint());
    let tls = EtcdTls {
        ca: papers.ca.clone(),
        client: Some((papers.client.0.clone(), papers.client.1.clone().into())),
        server_name: Some("etcd.example".to_owned()),
    };
    config.tls = Some(tls.clone());
    let directory = with(config.clone(), 1);
    directory.followed().await;
    assert_eq!(
        directory
            .lease(&[pool("10.7.0.0/24")], &[])
            .await
            .unwrap()
            .len(),
        1
    );
    // Without ours, with another authority's, with another name: nothing comes in.
    let other = others.ca.clone();
    for (what, tls) in [
        (
            "no client",
            EtcdTls {
                client: None,
                ..tls.clone()
            },
        ),
        (
            "authority",
            EtcdTls {
                ca: other,
                ..tls.clone()
            },
        ),
        (
            "name",
            EtcdTls {
                server_name: Some("other.example".into()),
                ..tls.clone()
            },
        ),
    ] {
        let mut wrong = config.clone();
        wrong.tls = Some(tls);
        let stranger = with(wrong, 2);
        let refused = timeout(Duration::from_secs(2), stranger.followed()).await;
        assert!(refused.is_err(), "{what}");
        assert!(
            stranger.lease(&[pool("10.7.0.0/24")], &[]).await.is_err(),
            "{what}"
        );
    }
    for papers in [papers, others] {
        std::fs::remove_dir_all(&papers.folder).unwrap();
    }
}

#[tokio::test]
async fn users_have_passwords_and_prefixes() {
    let Some(server) = Server::start().await else {
        return;
    };
    let mut client = etcd_client::Client::connect([server.endpoint()], None)
        .await
        .unwrap();
    client.user_add("root", "root-pw", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("node", "hunter2", None).await.unwrap();
    client.role_add("mesh").await.unwrap();
    let own = etcd_client::Permission::read_write("vpn/").with_prefix();
    client.role_grant_permission("mesh", own).await.unwrap();
    client.user_grant_role("node", "mesh").await.unwrap();
    client.auth_enable().await.unwrap();

    let mut config = config(server.endpoint());
    config.user = Some(EtcdUser::new("node", "hunter2"));
    let directory = with(config.clone(), 1);
    directory.followed().await;
    let address = directory.lease(&[pool("10.7.0.0/24")], &[]).await.unwrap();
    directory.publish(record(1, 1, address)).await.unwrap();
    for change in [
        (|c: &mut EtcdConfig| c.user = None) as fn(&mut EtcdConfig),
        |c| c.user = Some(EtcdUser::new("node", "wrong")),
        |c| c.prefix = "other/".into(),
    ] {
        let mut wrong = config.clone();
        change(&mut wrong);
        let stranger = with(wrong, 2);
        let refused = timeout(Duration::from_secs(2), stranger.followed()).await;
        assert!(refused.is_err());
        let said = format!("{:?} {stranger:?}", stranger.status());
        assert!(
            !said.contains("hunter2") && !said.contains("wrong"),
            "{said}"
        );
    }
}
