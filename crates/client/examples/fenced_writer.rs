//! A writer that proves with every write that it still holds the lock.
//!
//! The lease alone cannot keep a paused writer from writing late. The store below remembers the
//! largest token that it has seen, and refuses writes under a smaller one: that is what makes it safe.
//!
//! ```text
//! lockstep dev                                        # in one terminal
//! cargo run -p lockstep-client --example fenced_writer
//! ```

use std::time::Duration;

use lockstep_client::Client;

/// Stands for a database, a file store, anything that can compare two numbers.
#[derive(Default)]
struct Store {
    largest_token: u64,
    lines: Vec<String>,
}

impl Store {
    fn write(&mut self, token: u64, line: &str) -> Result<(), String> {
        if token < self.largest_token {
            return Err(format!("token {token} is older than {}: not written", self.largest_token));
        }
        self.largest_token = token;
        self.lines.push(line.to_owned());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let urls = std::env::var("LOCKSTEP_URL").unwrap_or_else(|_| "http://127.0.0.1:8001".into());
    let client = Client::new(urls.split(','))?;
    let mut store = Store::default();

    let guard =
        client.lock("report").ttl(Duration::from_secs(10)).wait(Duration::from_secs(30)).acquire().await?;
    for line in ["first", "second", "third"] {
        // Fails as soon as the lock is lost; the store would catch what slips through.
        store.write(guard.token()?, line)?;
        println!("wrote {line:?} under token {}", guard.token()?);
    }
    let old_token = guard.token()?;
    guard.release().await?;

    // The next holder has a larger token. Once it has written, the former one can do no harm.
    let next = client.lock("report").acquire().await?;
    store.write(next.token()?, "by the next holder")?;
    let refused = store.write(old_token, "late").expect_err("an old token is refused");
    println!("a late write is refused: {refused}");
    next.release().await?;
    println!("{:?}", store.lines);
    Ok(())
}
