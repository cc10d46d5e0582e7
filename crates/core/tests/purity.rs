//! The core depends on nothing that could tell replicas apart.

#[test]
fn the_core_depends_on_little() {
    let manifest = include_str!("../Cargo.toml");
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap();
    let dependencies = dependencies.split("\n[").next().unwrap();
    let allowed = ["bytes", "postcard", "serde", "thiserror", "xxhash-rust"];
    for line in dependencies.lines().filter(|line| line.contains('=')) {
        let name = line.split('=').next().unwrap().trim();
        assert!(allowed.contains(&name), "{name} is not among what the core may depend on: {allowed:?}");
    }
}
