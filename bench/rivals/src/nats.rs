//! NATS JetStream: a work queue of three replicas on disk, as its own client uses one.
//!
//! It leaves `sync_interval` as it is, so NATS answers before anything is on a disk.

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures::StreamExt;

use crate::load::run;
use crate::{Args, Error};

async fn stream(args: &Args) -> Result<Stream, Error> {
    let config = Config {
        name: "bench".into(),
        subjects: vec!["bench.>".into()],
        num_replicas: 3,
        storage: StorageType::File,
        retention: RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    let client = async_nats::connect(args.at(0)).await?;
    Ok(jetstream::new(client).get_or_create_stream(config).await?)
}

async fn connect(args: &Args, nth: usize) -> Result<(Context, String), Error> {
    let client = async_nats::connect(args.at(nth)).await?;
    Ok((jetstream::new(client), format!("bench.{nth}")))
}

/// Publishes, and awaits what the stream's leader says: of each message, or of a batch of which all
/// are in flight together.
pub async fn push(args: &Args) -> Result<(), Error> {
    stream(args).await?;
    let payload = Bytes::from(args.payload());
    run(
        args,
        args.batch,
        |nth| connect(args, nth),
        async |(stream, subject)| {
            let mut acknowledgements = Vec::with_capacity(args.batch);
            for _ in 0..args.batch {
                acknowledgements.push(stream.publish(subject.clone(), payload.clone()).await?);
            }
            for acknowledgement in acknowledgements {
                acknowledgement.await?;
            }
            Ok(())
        },
    )
    .await
}

/// Publishes, takes a message from the durable consumer that all connections share, and acknowledges
/// it. `confirmed`: awaits that the acknowledgement was taken, as every other system here does; without
/// it, it is only sent, which is what most programs do.
pub async fn cycle(args: &Args, confirmed: bool) -> Result<(), Error> {
    let config = pull::Config {
        durable_name: Some("workers".into()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 100_000,
        ..Default::default()
    };
    stream(args).await?.get_or_create_consumer("workers", config).await?;
    let payload = Bytes::from(args.payload());
    let open = |nth: usize| async move {
        let (context, subject) = connect(args, nth).await?;
        let consumer: PullConsumer = context.get_consumer_from_stream("workers", "bench").await?;
        let messages = consumer.stream().max_messages_per_batch(1).messages().await?;
        Ok((context, subject, messages))
    };
    run(args, args.batch, open, async |(stream, subject, messages)| {
        stream.publish(subject.clone(), payload.clone()).await?.await?;
        let message = messages.next().await.ok_or("the consumer has ended")??;
        match confirmed {
            true => message.double_ack().await?,
            false => message.ack().await?,
        }
        Ok(())
    })
    .await
}
