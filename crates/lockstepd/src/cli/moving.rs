//! `lockstep cluster export` and `import`: a stopped cluster as one file, and back.
//!
//! The file is checked before anything of it is written. It moves what the logs hold: locks, queues,
//! members and what is remembered of requests; the cache begins empty, as after any restart.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lockstep_core::Index;
use lockstep_core::names::ShardId;
use lockstepd::log::redis::{Address, Cluster, Offline};
use serde::{Deserialize, Serialize};

use super::{Failure, runtime};

const MAGIC: &str = "lockstep export 1";

/// Where from or to, and which file.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where the cluster's logs live: `redis://[user:password@]host:port/db[?name=NAME]`
    #[arg(long, env = "LOCKSTEP_STORE", value_name = "STORE", hide_env_values = true)]
    store: String,
    /// The export
    file: PathBuf,
}

/// The file's first line after the magic.
#[derive(Serialize, Deserialize)]
struct Head {
    cluster: Cluster,
    shards: u32,
}

/// The line before a shard's bytes.
#[derive(Serialize, Deserialize)]
struct Section {
    shard: u32,
    index: u64,
    bytes: u64,
    crc: u32,
}

/// Writes a stopped cluster to a file.
pub(super) fn export(args: &Args) -> Result<(), Failure> {
    let address = Address::parse(&args.store).map_err(|why| Failure::usage(format_args!("--store {why}")))?;
    runtime()?.block_on(async {
        let store = Offline::open(address).await.map_err(Failure::new)?;
        let Some(cluster) = store.cluster().await.map_err(Failure::new)? else {
            return Err(Failure::new("there is no cluster in that store under that name"));
        };
        let shards: Vec<ShardId> = (0..=cluster.queue_shards).map(ShardId).collect();
        store.must_be_still(&shards).await.map_err(Failure::new)?;
        let new = args.file.with_extension("incomplete");
        let fail = |error| file_failure(&new, &error);
        let mut file = std::fs::File::create(&new).map_err(fail)?;
        let head = Head { cluster, shards: u32::try_from(shards.len()).unwrap_or(u32::MAX) };
        writeln!(file, "{MAGIC}\n{}", json(&head)).map_err(fail)?;
        for shard in &shards {
            let (index, bytes) = store.read(*shard).await.map_err(Failure::new)?;
            let section = Section {
                shard: shard.0,
                index: index.0,
                bytes: bytes.len() as u64,
                crc: crc32fast::hash(&bytes),
            };
            writeln!(file, "{}", json(&section)).and_then(|()| file.write_all(&bytes)).map_err(fail)?;
            eprintln!("shard {shard} of {}: index {index}, {} bytes", shards.len() - 1, bytes.len());
        }
        store.must_be_still(&shards).await.map_err(Failure::new)?;
        file.sync_all().and_then(|()| std::fs::rename(&new, &args.file)).map_err(fail)?;
        println!("{} holds the whole cluster", args.file.display());
        Ok(())
    })
}

/// Writes a cluster from a file to where none is.
pub(super) fn import(args: &Args) -> Result<(), Failure> {
    let address = Address::parse(&args.store).map_err(|why| Failure::usage(format_args!("--store {why}")))?;
    let (cluster, shards) = read(&args.file)?;
    eprintln!("{} is whole: {} shards of cluster {}", args.file.display(), shards.len(), cluster.cluster_id);
    runtime()?.block_on(async {
        let store = Offline::open(address).await.map_err(Failure::new)?;
        if store.cluster().await.map_err(Failure::new)?.is_some() {
            return Err(Failure::new(
                "there is a cluster in that store under that name already; import under another name (?name=NAME)",
            ));
        }
        let count = shards.len();
        for (shard, index, bytes) in shards {
            let size = bytes.len();
            store.write(shard, index, bytes).await.map_err(Failure::new)?;
            eprintln!("shard {shard} of {}: index {index}, {size} bytes", count - 1);
        }
        // Last: until then no node takes it for a cluster.
        store.found(&cluster).await.map_err(Failure::new)?;
        println!("the cluster is there; start its nodes with members {:?}", cluster.members);
        Ok(())
    })
}

/// A shard, the index that its state reaches, and the state.
type Exported = (ShardId, Index, Bytes);

/// Everything in a file, checked.
fn read(path: &Path) -> Result<(Cluster, Vec<Exported>), Failure> {
    let file = std::fs::File::open(path).map_err(|error| file_failure(path, &error))?;
    let mut file = BufReader::new(file);
    let damaged = |why: &str| Failure::new(format_args!("{} is no whole export: {why}", path.display()));
    if line(&mut file)? != MAGIC {
        return Err(damaged("it does not begin as one of this version"));
    }
    let head: Head =
        serde_json::from_str(&line(&mut file)?).map_err(|_| damaged("its head cannot be read"))?;
    let mut shards = Vec::new();
    for expected in 0..head.shards {
        let section: Section =
            serde_json::from_str(&line(&mut file)?).map_err(|_| damaged("it ends early, or is damaged"))?;
        let mut bytes = Vec::new();
        (&mut file)
            .take(section.bytes)
            .read_to_end(&mut bytes)
            .map_err(|error| file_failure(path, &error))?;
        let whole = bytes.len() as u64 == section.bytes && crc32fast::hash(&bytes) == section.crc;
        let shard = ShardId(section.shard);
        if !whole || section.shard != expected {
            return Err(damaged(&format!("shard {expected} is damaged")));
        }
        Offline::check(shard, &bytes).map_err(|error| damaged(&format!("shard {shard}: {error}")))?;
        shards.push((shard, Index(section.index), bytes.into()));
    }
    Ok((head.cluster, shards))
}

fn line(file: &mut impl BufRead) -> Result<String, Failure> {
    let mut line = Vec::new();
    // A line of a whole export is short; anything else is none.
    file.take(64 << 10).read_until(b'\n', &mut line).map_err(Failure::new)?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain fields always serialize")
}

fn file_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format_args!("cannot use {}: {error}", path.display()))
}
