//! Every kind of Redis that a cluster may be given: clustered, encrypted, behind a password and an ACL.

use std::process::Command;

use super::*;

/// What a command prints; it must succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// Starts the logs of `shards` shards at three nodes, lets each take a lock or a message, and starts them anew.
async fn works_at(url: &str, shards: u32) {
    let address = Address::parse(url).unwrap();
    let members = BTreeSet::from([1, 2, 3]);
    for round in 1..=2 {
        let mut nodes = Vec::new();
        for id in &members {
            let server = Server::new(address.clone()).unwrap();
            let home = Home::new(Arc::clone(&server), NodeId(*id));
            assert_eq!(home.join(&members, None, 3).await.unwrap().members, members);
            assert!(home.next_incarnation().await.unwrap() > 0);
            nodes.push(Shards::new(fast(), NodeId(*id), server, Clock::boot()));
        }
        for shard in (0..shards).map(ShardId) {
            let logs: Vec<_> = nodes
                .iter()
                .map(|node| {
                    let state = State::with_bodies(shard, settings(), node.bodies(shard));
                    (node.start(shard, Arc::clone(&state)), state)
                })
                .collect();
            let leading = || logs.iter().find(|(log, _)| log.status().borrow().leading);
            until(|| leading().is_some()).await;
            let (log, state) = leading().unwrap();
            let op = if shard.0 == 0 { acquire(round, "kept", 600_000) } else { push(round, 2_000) };
            let applied = log.propose(op).await.unwrap();
            assert!(log.barrier().await.unwrap() >= applied.index);
            if round == 2 {
                assert!(
                    state.read(|shard| shard.now()) > lockstep_core::Millis(0),
                    "it begins with what is there"
                );
                assert!(applied.index.0 > 3, "it begins with what is there");
            }
        }
        for node in nodes {
            node.shutdown().await;
        }
    }
}

#[tokio::test]
async fn shards_spread_over_a_redis_cluster() {
    let servers = [(); 3].map(|()| {
        RedisServer::start_with(&[
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--cluster-enabled",
            "yes",
        ])
    });
    let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(hosts.iter().map(String::as_str));
    create.push("--cluster-yes");
    run("redis-cli", &create);
    let complete =
        || servers.iter().all(|server| server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    until(complete).await;

    // Whichever node is named, each shard's log lies where its slot is.
    works_at(&format!("redis://{}?name=one", hosts[0]), 8).await;
    works_at(&format!("redis://{}?name=two", hosts.join(",")), 2).await;
    let logs = |server: &RedisServer| {
        server.cli(&["KEYS", "{lockstep:one:*}:log"]).lines().filter(|line| !line.is_empty()).count()
    };
    let spread: Vec<usize> = servers.iter().map(logs).collect();
    assert_eq!(spread.iter().sum::<usize>(), 8, "{spread:?}");
    assert!(spread.iter().filter(|logs| **logs > 0).count() >= 2, "{spread:?}");
}

#[tokio::test]
async fn a_user_with_the_documented_permissions_is_enough() {
    let redis = RedisServer::start();
    let documented = include_str!("../../../../../../docs/stores.md");
    let begin = documented.find("ACL SETUSER").expect("the page shows a user");
    let rule =
        documented[begin..].split("```").next().unwrap().replace("PASSWORD", "p%ss").replace("NAME", "mine");
    let rule: Vec<&str> = rule.split_whitespace().collect();
    assert_eq!(redis.cli(&rule), "OK");
    let port = redis.port;
    works_at(&format!("redis://lockstep:p%25ss@127.0.0.1:{port}?name=mine"), 2).await;
    let elsewhere = Address::parse(&format!("redis://lockstep:p%25ss@127.0.0.1:{port}?name=other")).unwrap();
    let home = Home::new(Server::new(elsewhere).unwrap(), NodeId(1));
    let refused = home.join(&BTreeSet::from([1]), None, 1).await.unwrap_err().to_string();
    // A Valkey begins the word otherwise.
    assert!(refused.contains("cannot use") && refused.to_lowercase().contains("no permissions"), "{refused}");
}

#[tokio::test]
async fn connections_are_encrypted_and_certificates_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (key, certificate) = (path("key.pem"), path("cert.pem"));
    let request = "[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=ext\n[dn]\nCN=localhost\n[ext]\n\
                   basicConstraints=critical,CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
    std::fs::write(path("request.cnf"), request).unwrap();
    let request = path("request.cnf");
    let mut arguments =
        vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    arguments.extend(["-config", &request, "-days", "30", "-keyout", &key, "-out", &certificate]);
    run("openssl", &arguments);
    let tls = testing::free_port().to_string();
    let redis = RedisServer::start_with(&[
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]);
    works_at(&format!("rediss://127.0.0.1:{tls}?ca={certificate}"), 2).await;
    let unknown = Server::new(Address::parse(&format!("rediss://127.0.0.1:{tls}")).unwrap()).unwrap();
    let refused =
        Home::new(unknown, NodeId(1)).join(&BTreeSet::from([1]), None, 1).await.unwrap_err().to_string();
    assert!(refused.contains("certificate") && refused.contains("?ca="), "{refused}");
    assert!(redis.cli(&["PING"]).contains("PONG"));
}
