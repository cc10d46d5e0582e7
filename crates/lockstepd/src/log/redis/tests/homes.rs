//! Which cluster a Redis holds, and who may begin one there.
//!
//! No log runs here.

use super::proxy::Proxy;
use super::*;

#[tokio::test]
async fn one_redis_holds_several_clusters_and_each_finds_its_own() {
    let redis = RedisServer::start();
    let home = |name: &str, node: u64| {
        let address = Address::parse(&format!("{}?name={name}", redis.url())).unwrap();
        Home::new(Server::new(address).unwrap(), NodeId(node))
    };
    let three = BTreeSet::from([1, 2, 3]);
    let a = home("a", 1).join(&three, None, 3).await.unwrap();
    assert_eq!(home("a", 2).join(&three, None, 5).await.unwrap(), a, "the first one decides");
    assert_ne!(home("b", 1).join(&three, None, 3).await.unwrap().cluster_id, a.cluster_id);
    let other = home("a", 1).join(&BTreeSet::from([1, 2]), None, 3).await.unwrap_err().to_string();
    assert!(other.contains("{1, 2, 3}") && other.contains("name=NAME"), "{other}");
    let shards = home("a", 1).join(&three, Some(8), 3).await.unwrap_err().to_string();
    assert!(shards.contains("queue shards 3") && shards.contains('8'), "{shards}");
    let first = home("a", 1).next_incarnation().await.unwrap();
    assert!(home("a", 1).next_incarnation().await.unwrap() > first);

    redis.cli(&["SET", "lockstep:c:cluster", "something else"]);
    redis.cli(&["LPUSH", "lockstep:d:cluster", "something else"]);
    for name in ["c", "d"] {
        let foreign = home(name, 1).join(&three, None, 3).await.unwrap_err().to_string();
        assert!(
            foreign.contains("not written by this version") && foreign.contains("name=NAME"),
            "{foreign}"
        );
    }
    assert_eq!(redis.cli(&["GET", "lockstep:c:cluster"]), "something else", "nothing was overwritten");
}

#[tokio::test]
async fn logs_without_a_record_are_nobodys_to_begin_anew() {
    let redis = RedisServer::start();
    let three = BTreeSet::from([1, 2, 3]);
    let address = |name: &str| Address::parse(&format!("{}?name={name}", redis.url())).unwrap();
    let home = |name: &str| Home::new(Server::new(address(name)).unwrap(), NodeId(1));
    let cluster = Cluster::new(&redis, 0, fast());
    let joined = home(&cluster.name).join(&three, None, 3).await;
    leader(&cluster, None).await;
    let said = match joined {
        // The logs of this test began before their cluster; whoever came first has decided.
        Ok(_) => {
            redis.cli(&["DEL", &format!("lockstep:{}:cluster", cluster.name)]);
            home(&cluster.name).join(&three, None, 3).await.unwrap_err().to_string()
        }
        Err(refused) => refused.to_string(),
    };
    assert!(said.contains("holds logs of a cluster") && said.contains(":cluster"), "{said}");
    assert!(said.contains("Restore Redis") && said.contains("name=NAME"), "{said}");
    assert_eq!(redis.cli(&["EXISTS", &format!("lockstep:{}:cluster", cluster.name)]), "0");
    // The way that docs/stores.md tells.
    let record =
        r#"{"format":1,"cluster_id":"00000000000000000000000000000001","queue_shards":3,"members":[1,2,3]}"#;
    assert!(include_str!("../../../../../../docs/stores.md").contains(record));
    redis.cli(&["SET", &format!("lockstep:{}:cluster", cluster.name), record]);
    home(&cluster.name).join(&three, None, 3).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_refused_at_the_start() {
    let redis = RedisServer::start();
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let home = Home::new(Server::new(Address::parse(&redis.url()).unwrap()).unwrap(), NodeId(1));
    let said = home.join(&BTreeSet::from([1]), None, 1).await.unwrap_err().to_string();
    assert!(said.contains("cannot use the Redis at") && said.contains("NOREPLICAS"), "{said}");
    assert_eq!(redis.cli(&["DBSIZE"]), "0");
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    home.join(&BTreeSet::from([1]), None, 1).await.unwrap();
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    home.join(&BTreeSet::from([1]), None, 1).await.unwrap();
    let said = home.next_incarnation().await.unwrap_err().to_string();
    assert!(said.contains("cannot use the Redis at") && said.contains("NOREPLICAS"), "{said}");
}

#[tokio::test]
async fn each_server_of_a_redis_cluster_is_warned_of_by_itself() {
    let (weak, good) = (
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]),
        RedisServer::start(),
    );
    good.cli(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"]);
    let both = format!("redis://127.0.0.1:{},127.0.0.1:{}", weak.port, good.port);
    let server = Server::new(Address::parse(&both).unwrap()).unwrap();
    server.connect("any").await.unwrap();
    let first = server.warnings();
    assert!(first.len() == 1 && first[0].contains("appendfsync everysec"), "{first:?}");
    weak.kill();
    server.connect("any").await.unwrap();
    let both = server.warnings();
    assert!(both.len() == 2 && both.contains(&first[0]), "{both:?}");
    let port = format!(":{} runs with no-appendfsync-on-rewrite yes", good.port);
    assert!(both.iter().any(|warning| warning.contains(&port)), "{both:?}");
    good.cli(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "no"]);
    server.connect("any").await.unwrap();
    assert_eq!(server.warnings(), first, "what was mended is no longer said");
}

#[tokio::test]
async fn a_server_that_did_not_answer_is_not_said_to_have_forbidden_anything() {
    let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let proxy = Proxy::start(redis.port).await;
    let server = Server::new(Address::parse(&proxy.url).unwrap()).unwrap();
    server.connect("any").await.unwrap();
    let known = server.warnings();
    assert!(known.len() == 1 && known[0].contains("appendfsync everysec"), "{known:?}");
    let mut cut_short = 0;
    for answers in 0..8 {
        proxy.answers(answers);
        cut_short += u32::from(server.connect("any").await.is_ok());
        assert_eq!(server.warnings(), known, "after {answers} answers");
    }
    assert!(cut_short > 1, "no question about settings was without an answer");
    redis.cli(&["ACL", "SETUSER", "default", "-config"]);
    proxy.answers(i64::MAX);
    server.connect("any").await.unwrap();
    let known = server.warnings();
    assert!(known.len() == 4 && known[0].contains("CONFIG GET is not allowed"), "{known:?}");
}

#[tokio::test]
async fn what_is_no_redis_and_what_it_cannot_do_is_said() {
    let redis = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let server = |url: &str| Server::new(Address::parse(url).unwrap()).unwrap();
    let web = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let not_redis = format!("redis://{}", web.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = web.accept().await {
            let said = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client, said).await;
        }
    });
    for (url, why) in [
        (not_redis, "answers, but not as Redis does"),
        (format!("{}/3", redis.url()), "has only database 0"),
        (redis.url(), "it is not complete"),
    ] {
        let said = server(&url).connect("any").await.err().unwrap().to_string();
        assert!(said.contains(why) && !said.contains('\n'), "{url}: {said}");
    }
}
