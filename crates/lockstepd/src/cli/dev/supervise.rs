//! Looks after the nodes: says when they are ready, restarts one that dies, stops all together.

use std::collections::VecDeque;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Failure;
use super::child::{Process, say};
use super::plan::{Node, Plan};
use crate::cli::http1::{Address, Connection};
use crate::cli::signals::Signals;

/// Before a node that died is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// A node that dies more often than this within [`RESTART_WINDOW`] will not come up by itself.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// How long a node may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The exit code of a node that cannot start as it was told; trying again cannot help.
const MISTAKE: i32 = 2;

/// Runs the cluster until a signal (success) or until a node cannot be kept alive (failure).
pub(super) async fn run(plan: &Plan, colours: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    if !plan.keeps_nothing() {
        say(format_args!("data in {}", plan.data.display()));
    }
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut nodes = tokio::task::JoinSet::new();
    for node in &plan.nodes {
        nodes.spawn(keep_running(node.clone(), plan.store.clone(), prefix(node, colours), stopping.clone()));
    }
    let announcing = tokio::spawn(announce(plan.nodes.iter().map(Node::url).collect()));
    let mut outcome = tokio::select! {
        _ = signals.next() => Ok(()),
        Some(ended) = nodes.join_next() => ended.map_err(Failure::new).flatten(),
    };
    announcing.abort();
    say("stopping");
    stop.send_replace(true);
    loop {
        tokio::select! {
            ended = nodes.join_next() => match ended {
                Some(ended) => outcome = outcome.and(ended.map_err(Failure::new).flatten()),
                None => return outcome,
            },
            // Dropping the set drops the processes, and they die with their handles.
            _ = signals.next() => return Err(Failure::new("stopped at once by a second signal")),
        }
    }
}

/// One node's life, over as many processes as it takes. Ends when told to stop, or with the reason
/// why it is of no use to start it again.
async fn keep_running(
    node: Node,
    store: Option<String>,
    prefix: String,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) -> Result<(), Failure> {
    let mut deaths = VecDeque::new();
    loop {
        let mut process = Process::start(&node, store.as_deref(), &prefix)?;
        let status = tokio::select! {
            status = process.ended() => Some(status.map_err(Failure::new)?),
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        let Some(status) = status else { return stop(&node, process).await };
        may_restart(&node, status, &mut deaths)?;
        say(format_args!("{prefix}died ({status}); starting it again"));
        tokio::select! {
            () = sleep(RESTART_AFTER) => {}
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

fn may_restart(node: &Node, status: ExitStatus, deaths: &mut VecDeque<Instant>) -> Result<(), Failure> {
    if status.code() == Some(MISTAKE) {
        return Err(Failure::usage(format_args!("node {} cannot start; its message stands above", node.id)));
    }
    let now = Instant::now();
    deaths.push_back(now);
    while deaths.front().is_some_and(|first| now - *first > RESTART_WINDOW) {
        deaths.pop_front();
    }
    if deaths.len() > RESTARTS_MAX {
        return Err(Failure::new(format_args!(
            "node {} died {} times within {} s, last with {status}; giving up",
            node.id,
            deaths.len(),
            RESTART_WINDOW.as_secs()
        )));
    }
    Ok(())
}

async fn stop(node: &Node, mut process: Process) -> Result<(), Failure> {
    process.terminate();
    match timeout(STOP_WITHIN, process.ended()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Failure::new(format_args!("node {} stopped with {status}", node.id))),
        Ok(Err(error)) => Err(Failure::new(error)),
        Err(_) => {
            process.kill().await;
            Err(Failure::new(format_args!(
                "node {} did not stop within {} s and was killed",
                node.id,
                STOP_WITHIN.as_secs()
            )))
        }
    }
}

/// Says once that every node can serve, and what to try.
async fn announce(urls: Vec<String>) {
    for url in &urls {
        while !ready(url).await {
            sleep(Duration::from_millis(100)).await;
        }
    }
    say(format_args!("ready: {}", urls.join("  ")));
    let (first, last) = (&urls[0], &urls[urls.len() - 1]);
    say("try:");
    say(format_args!("  curl {last}/leader"));
    say(format_args!(
        "  curl -X POST {first}/lock/acquire -H 'Content-Type: application/json' \
         -d '{{\"name\":\"resA\",\"mode\":\"exclusive\",\"owner\":\"client1\"}}'"
    ));
}

async fn ready(url: &str) -> bool {
    let ask = async {
        let address = Address::parse(url).ok()?;
        let mut connection = Connection::open(&address).await.ok()?;
        let answer = connection.request(&address.get("/ready")).await.ok()?;
        Some(answer.status == 200)
    };
    matches!(timeout(Duration::from_secs(1), ask).await, Ok(Some(true)))
}

/// `node1 | `, each node in a colour of its own on a terminal.
fn prefix(node: &Node, colours: bool) -> String {
    let plain = format!("node{} | ", node.id);
    if !colours {
        return plain;
    }
    let colour = [36, 33, 35, 32, 34, 31][usize::from(node.id - 1) % 6];
    format!("\x1b[{colour}m{plain}\x1b[0m")
}
