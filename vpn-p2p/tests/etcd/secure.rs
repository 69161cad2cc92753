//! TLS with certificates of both sides, and users.

use super::*;
use vpn_lab_etcd::{Papers, SERVER_NAME, is_there};
use vpn_p2p::directory::{EtcdTls, EtcdUser};

#[tokio::test]
async fn certificates_of_both_sides_are_asked_for() {
    if !is_there() {
        return;
    }
    let (papers, others) = (Papers::new(), Papers::new());
    let server = Server::start_with("https", &papers.options()).unwrap();
    let mut config = config(server.endpoint());
    let tls = EtcdTls {
        ca: papers.read("ca.pem"),
        client: Some((papers.read("client.pem"), papers.read("client.key").into())),
        server_name: Some(SERVER_NAME.to_owned()),
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
    let other = others.read("ca.pem");
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
}

#[tokio::test]
async fn users_have_passwords_and_prefixes() {
    let Some(server) = Server::start() else {
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
