//! Redis: locks by SET NX, reads by GET, and queues as streams with a consumer group.
//!
//! What is durable is up to the server's own settings, see `bench/run`.

use redis::aio::MultiplexedConnection;

use crate::load::run;
use crate::{Args, Error};

/// A stream's entries as XREADGROUP tells them: stream, then entry, then fields.
type Entries = Option<Vec<(String, Vec<(String, Vec<(String, String)>)>)>>;

async fn connect(args: &Args, nth: usize) -> Result<(MultiplexedConnection, usize), Error> {
    Ok((redis::Client::open(args.at(nth))?.get_multiplexed_async_connection().await?, nth))
}

/// SET NX, then DEL.
pub async fn locks(args: &Args) -> Result<(), Error> {
    run(
        args,
        args.batch,
        |nth| connect(args, nth),
        async |(connection, nth)| {
            let name = format!("lock-{nth}");
            let set = redis::cmd("SET").arg(&name).arg(1).arg("NX").arg("PX").arg(30_000).to_owned();
            set.query_async::<()>(connection).await?;
            redis::cmd("DEL").arg(&name).query_async::<()>(connection).await?;
            Ok(())
        },
    )
    .await
}

/// GET of one key.
pub async fn get(args: &Args) -> Result<(), Error> {
    run(
        args,
        args.batch,
        |nth| connect(args, nth),
        async |(connection, _)| {
            redis::cmd("GET").arg("k").query_async::<()>(connection).await?;
            Ok(())
        },
    )
    .await
}

/// XADD, a batch of them in one pipeline.
pub async fn push(args: &Args) -> Result<(), Error> {
    let payload = args.payload();
    let mut pipeline = redis::pipe();
    for _ in 0..args.batch {
        pipeline.cmd("XADD").arg("q").arg("*").arg("p").arg(&payload).ignore();
    }
    run(
        args,
        args.batch,
        |nth| connect(args, nth),
        async |(connection, _)| {
            pipeline.query_async::<()>(connection).await?;
            Ok(())
        },
    )
    .await
}

/// XADD, then XREADGROUP of one entry, then XACK and XDEL in one pipeline.
pub async fn cycle(args: &Args) -> Result<(), Error> {
    let (mut first, _) = connect(args, 0).await?;
    let group = redis::cmd("XGROUP").arg("CREATE").arg("q").arg("g").arg("$").arg("MKSTREAM").to_owned();
    // It may be there from the run before.
    let _ = group.query_async::<()>(&mut first).await;
    let payload = args.payload();
    run(
        args,
        args.batch,
        |nth| connect(args, nth),
        async |(connection, nth)| {
            let add = redis::cmd("XADD").arg("q").arg("*").arg("p").arg(&payload).to_owned();
            add.query_async::<()>(connection).await?;
            let read = redis::cmd("XREADGROUP")
                .arg("GROUP")
                .arg("g")
                .arg(*nth)
                .arg("COUNT")
                .arg(1)
                .arg("STREAMS")
                .arg("q")
                .arg(">")
                .to_owned();
            let id = loop {
                let entries: Entries = read.query_async(connection).await?;
                let entry = entries.and_then(|mut streams| streams.pop()?.1.pop());
                if let Some((id, _)) = entry {
                    break id;
                }
            };
            let mut done = redis::pipe();
            done.cmd("XACK").arg("q").arg("g").arg(&id).ignore().cmd("XDEL").arg("q").arg(&id).ignore();
            done.query_async::<()>(connection).await?;
            Ok(())
        },
    )
    .await
}
