//! One of several processes leads; when it stops or dies, another takes over.
//!
//! Start it in several terminals, and stop the one that leads.
//!
//! ```text
//! lockstep dev                                        # in one terminal
//! cargo run -p lockstep-client --example leader_election
//! ```

use std::time::Duration;

use lockstep_client::{Client, Code, Hold};

/// What only the leader does. It passes its token along wherever it writes.
async fn lead(hold: &Hold) {
    for round in 1.. {
        let Ok(token) = hold.token() else { return };
        println!("leading under token {token}, round {round}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let urls = std::env::var("LOCKSTEP_URL").unwrap_or_else(|_| "http://127.0.0.1:8001".into());
    let client = Client::new(urls.split(','))?;
    loop {
        println!("standing for election");
        let election = client.lock("leader").ttl(Duration::from_secs(10)).wait(Duration::from_secs(60));
        let guard = match election.acquire().await {
            Ok(guard) => guard,
            Err(error) if error.is(Code::WaitTimeout) => continue,
            Err(error) => return Err(error.into()),
        };
        tokio::select! {
            () = lead(&guard) => {}
            why = guard.lost() => println!("{why}: no longer leading"),
            _ = tokio::signal::ctrl_c() => {
                // Without this the next leader would wait for the lease to end.
                guard.release().await?;
                println!("stepped down");
                return Ok(());
            }
        }
    }
}
