//! `lockstep cluster export` and `import`: a stopped cluster as one file, and back.
//!
//! It reads the arguments and prints; `lockstepd::moving` does the work.

use std::path::PathBuf;

use lockstepd::log::redis::Address;
use lockstepd::moving::{self, Place};

use super::{Failure, runtime};

/// Where from or to, and which file.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where the cluster's logs live: `embedded`, or `redis://[user:password@]host[:port]/db[?name=NAME]`
    #[arg(
        long,
        env = "LOCKSTEP_STORE",
        value_name = "STORE",
        default_value = "embedded",
        hide_env_values = true
    )]
    store: String,
    /// With `embedded`: the data directory of a node, once for each of them. An import makes one for each
    /// node below DIR: DIR/node1, DIR/node2, …
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// The export
    file: PathBuf,
}

/// An import's.
#[derive(clap::Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    args: Args,
    /// Begin again where an import was interrupted: first delete what it has left there, and only that
    #[arg(long)]
    restart: bool,
}

impl Args {
    fn place(&self) -> Result<Place, Failure> {
        if self.store == "embedded" {
            if self.data.is_empty() {
                return Err(Failure::usage("--store embedded needs --data DIR"));
            }
            return Ok(Place::Embedded(self.data.clone()));
        }
        if !self.data.is_empty() {
            return Err(Failure::usage("--data goes with --store embedded only"));
        }
        let address = Address::parse(&self.store);
        address.map(Place::Redis).map_err(|why| Failure::usage(format_args!("--store {why}")))
    }
}

/// Writes a stopped cluster to a file.
pub(super) fn export(args: &Args) -> Result<(), Failure> {
    let place = args.place()?;
    runtime()?
        .block_on(moving::export(place, &args.file, &|text| eprintln!("{text}")))
        .map_err(Failure::new)?;
    println!("{} holds the whole cluster", args.file.display());
    Ok(())
}

/// Writes a cluster from a file to where none is.
pub(super) fn import(ImportArgs { args, restart }: &ImportArgs) -> Result<(), Failure> {
    let place = args.place()?;
    let cluster = runtime()?
        .block_on(moving::import(&args.file, place, *restart, &|text| eprintln!("{text}")))
        .map_err(Failure::new)?;
    println!("the cluster is there; start its nodes with members {:?}", cluster.members);
    Ok(())
}
