//! A worker that handles messages of the queue `mail`, four at a time, until Ctrl-C.
//!
//! ```text
//! lockstep dev                                        # in one terminal
//! cargo run -p lockstep-client --example queue_worker
//! lockstep queue push --queue mail '{"to":"ann","text":"hello"}'
//! ```

use std::time::Duration;

use lockstep_client::Client;
use lockstep_client::queue::{Delivery, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
    text: String,
}

/// May run twice for one message: after a crash, or if it takes longer than the visibility time-out
/// while the cluster cannot be reached. A real one would remember `delivery.message().id`.
async fn send(delivery: Delivery) -> Result<(), lockstep_client::Error> {
    let mail: Mail = delivery.payload()?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    println!("to {}: {} (attempt {})", mail.to, mail.text, delivery.message().attempts);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lockstep_client::Error> {
    let urls = std::env::var("LOCKSTEP_URL").unwrap_or_else(|_| "http://127.0.0.1:8001".into());
    let queue = Client::new(urls.split(','))?.queue("mail");

    // Mails to one person keep their order; those to different people are sent side by side.
    for (to, text) in [("ann", "first"), ("ann", "second"), ("bob", "hello")] {
        let mail = Mail { to: to.into(), text: text.into() };
        queue.push(Message::new(&mail)?.key(to)).await?;
    }
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let summary = queue.worker(4).retry_delay(Duration::from_secs(5)).until(stop).run(send).await?;
    println!("{summary:?}");
    Ok(())
}
