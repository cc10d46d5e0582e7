use super::*;

fn usable() -> Options {
    Options {
        node_id: Some(1),
        http: Some("127.0.0.1:8001".into()),
        peer: Some("127.0.0.1:9001".into()),
        members: Some("1=127.0.0.1:9001, 2=node-two:9001,3=[::1]:9003".into()),
        data: Some("/tmp/never-opened".into()),
        ..Options::default()
    }
}

fn refusal(change: impl FnOnce(&mut Options)) -> String {
    let mut options = usable();
    change(&mut options);
    Serve::from_options(&options).expect_err("must be refused").to_string()
}

#[test]
fn the_required_options_alone_make_a_node() {
    let serve = Serve::from_options(&usable()).unwrap();
    assert_eq!(serve.members.len(), 3);
    assert_eq!(serve.advertise, "http://127.0.0.1:8001");
    assert_eq!(serve.queue_shards, None);
    assert_eq!(serve.timing.heartbeat, Duration::from_millis(500));
    assert_eq!(serve.limits.body_bytes, 1 << 20);
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let error = Serve::from_options(&Options::default()).unwrap_err().to_string();
    for part in ["--node-id", "--http", "--peer", "--members", "--data", "LOCKSTEP_NODE_ID", "--config"] {
        assert!(error.contains(part), "{part} not in {error:?}");
    }
}

#[test]
fn a_member_list_with_a_mistake_is_refused_and_the_mistake_named() {
    let with = |text: &str| refusal(|options| options.members = Some(text.into()));
    assert!(with("2=a:9002,3=b:9003").contains("add 1=HOST:PORT"));
    assert!(with("").contains("nobody"));
    assert!(with("1=a:9001,1=b:9002").contains("node 1 twice"));
    assert!(with("1=a:9001,2=a:9001").contains("a:9001 twice"));
    assert!(with("1=a:9001,two=b:9002").contains("\"two=b:9002\""));
    assert!(with("1=a:9001,0=b:9002").contains("ids start at 1"));
    assert!(with("1=a").contains("no port"));
    assert!(with("1=a:99999").contains("no usable address"));
    assert!(with("a:9001").contains("no `=`"));
}

#[test]
fn addresses_that_cannot_be_listened_on_are_refused() {
    assert!(refusal(|options| options.http = Some("8001".into())).contains("--http \"8001\""));
    assert!(refusal(|options| options.peer = Some("127.0.0.1:port".into())).contains("--peer"));
}

#[test]
fn listening_everywhere_asks_for_an_advertised_url() {
    assert!(refusal(|options| options.http = Some("0.0.0.0:8001".into())).contains("--advertise"));
    let mut options = usable();
    options.http = Some("0.0.0.0:8001".into());
    options.advertise = Some("http://node-one:8001/".into());
    assert_eq!(Serve::from_options(&options).unwrap().advertise, "http://node-one:8001");
    assert!(refusal(|options| options.advertise = Some("node-one:8001".into())).contains("must be the URL"));
}

#[test]
fn elections_shorter_than_heartbeats_are_refused() {
    assert!(refusal(|options| options.heartbeat_ms = Some(1_500)).contains("at least 3000"));
    assert!(refusal(|options| options.election_ms_max = Some(2_000)).contains("--election-ms-max 2000"));
    assert!(refusal(|options| options.queue_shards = Some(0)).contains("between 1 and 256"));
}

#[test]
fn redis_as_the_store_needs_no_directory_and_its_mistakes_are_named_without_the_password() {
    let with = |store: &str| Options { store: Some(store.into()), data: None, ..usable() };
    let serve = Serve::from_options(&with("redis://:secret@localhost:6379/2")).unwrap();
    assert!(matches!(&serve.store, Store::Redis(address) if address.db == 2), "{:?}", serve.store);
    assert!(!format!("{serve:?}").contains("secret"));
    serve.prepare_data().unwrap();
    for wrong in ["redis://:secret@host:port", "sqlite://:secret@host"] {
        let error =
            Serve::from_options(&Options { data: Some("/x".into()), ..with(wrong) }).unwrap_err().to_string();
        assert!(error.contains("redis://host:6379/0") && !error.contains("secret"), "{error}");
    }
    let error = Serve::from_options(&Options { data: None, ..usable() }).unwrap_err().to_string();
    assert!(error.contains("--data"), "{error}");
}

#[test]
fn a_file_may_write_keys_both_ways_and_members_three_ways() {
    let one = Options::from_toml("node-id = 2\nqueue_shards = 4\nmembers = '1=a:1,2=b:2'").unwrap();
    let two = Options::from_toml("node_id = 2\nqueue-shards = 4\nmembers = ['1=a:1', '2=b:2']").unwrap();
    let three = Options::from_toml("node_id = 2\nqueue-shards = 4\n[members]\n1 = 'a:1'\n2 = 'b:2'").unwrap();
    assert_eq!(one, two);
    assert_eq!(two, three);
}

#[test]
fn a_file_with_an_unknown_key_a_wrong_type_or_a_key_twice_is_refused_by_name() {
    assert!(Options::from_toml("node-idd = 1").unwrap_err().contains("node-idd"));
    assert!(Options::from_toml("node-id = 'one'").unwrap_err().contains("node-id"));
    assert!(Options::from_toml("node-id = 1\nnode_id = 2").unwrap_err().contains("twice"));
    assert!(Options::from_toml("node-id = ").unwrap_err().contains("line 1"));
}

#[test]
fn what_stands_above_wins_and_the_rest_stays() {
    let file = Options { queue_shards: Some(8), heartbeat_ms: Some(100), ..Options::default() };
    let flags = Options { queue_shards: Some(2), ..usable() };
    let merged = flags.over(file).unwrap();
    assert_eq!(merged.queue_shards, Some(2));
    assert_eq!(merged.heartbeat_ms, Some(100));
    assert_eq!(merged.node_id, Some(1));
}

#[test]
fn a_data_directory_that_cannot_be_made_is_refused_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let mut serve = Serve::from_options(&usable()).unwrap();
    serve.data = file.join("below");
    let error = serve.prepare_data().unwrap_err().to_string();
    assert!(error.contains("below") && error.contains("--data"), "{error}");
    serve.data = directory.path().join("a/b");
    serve.prepare_data().unwrap();
    assert_eq!(std::fs::read_dir(&serve.data).unwrap().count(), 0, "the probe is removed");
}
