//! Counters of this node, in the form that Prometheus reads.
//!
//! Counting must cost nothing worth mentioning: labels are resolved once, when the node starts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

type Labels = Vec<(String, String)>;

/// The routes that are counted by name; everything else counts as `other`.
pub(crate) const ROUTES: [&str; 49] = [
    "/lock/acquire",
    "/lock/release",
    "/lock/renew",
    "/lock/upgrade",
    "/lock/downgrade",
    "/lock/break",
    "/lock/audit",
    "/lock/watch",
    "/session/open",
    "/session/renew",
    "/session/close",
    "/lock/get",
    "/lock/list",
    "/queue/push",
    "/queue/pop",
    "/queue/receive",
    "/queue/ack",
    "/queue/nack",
    "/queue/extend",
    "/queue/stats",
    "/queue/list",
    "/queue/configure",
    "/queue/peek",
    "/queue/purge",
    "/queue/redrive",
    "/queue/resume",
    "/cache/set",
    "/cache/get",
    "/cache/delete",
    "/cache/incr",
    "/cache/mget",
    "/cache/mset",
    "/cache/flush",
    "/cache/load",
    "/cache/line",
    "/cache/namespace",
    "/cache/near/open",
    "/cache/near/get",
    "/cache/near/sync",
    "/cache/near/close",
    "/cache/stats",
    "/cache/watch",
    "/leader",
    "/cluster",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/",
];

/// Every counter of a node.
pub struct Metrics {
    registry: Mutex<Registry>,
    routes: BTreeMap<&'static str, Route>,
    other: Route,
    /// Gauges that are read when somebody asks, by name: shard, then value.
    gauges: Family<Labels, Gauge>,
}

/// A histogram that somebody else keeps.
pub struct Kept {
    /// Of everything that was observed.
    pub sum: f64,
    /// Upper bounds, the last one infinite, and how much was observed above the bound before.
    pub buckets: Vec<(f64, u64)>,
}

/// Reads such a histogram when somebody asks.
struct Reader {
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> Kept + Send + Sync>,
}

struct Route {
    /// By the first digit of the status.
    statuses: [Counter; 5],
    seconds: Histogram,
}

/// A request that is being answered.
pub struct Timer<'a> {
    route: &'a Route,
    begun: Instant,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("lockstep");
        let requests = Family::<Labels, Counter>::default();
        let seconds = Family::<Labels, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_1, 2.5, 14))
        });
        registry.register("http_requests", "Requests by route and class of status", requests.clone());
        registry.register("http_request_seconds", "Time to answer by route", seconds.clone());
        let gauges = Family::<Labels, Gauge>::default();
        registry.register("state", "Gauges of this node, by name", gauges.clone());
        let route = |name: &str| {
            let label = |class: &str| vec![("route".into(), name.into()), ("status".into(), class.into())];
            let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
            Route {
                statuses: classes.map(|class| requests.get_or_create(&label(class)).clone()),
                seconds: seconds.get_or_create(&vec![("route".into(), name.into())]).clone(),
            }
        };
        let routes = ROUTES.into_iter().map(|name| (name, route(name))).collect();
        let other = route("other");
        Self { registry: Mutex::new(registry), routes, other, gauges }
    }
}

impl Metrics {
    /// A request for `path` begins.
    pub fn begin(&self, path: &str) -> Timer<'_> {
        Timer { route: self.routes.get(path).unwrap_or(&self.other), begun: Instant::now() }
    }

    /// A value was answered from memory, before any route was looked for.
    pub fn hit(&self, span: std::time::Duration) {
        if let Some(route) = self.routes.get("/cache/get") {
            route.statuses[1].inc();
            route.seconds.observe(span.as_secs_f64());
        }
    }

    /// Sets a gauge such as `("raft_epoch", "0")`: a name, and a shard or peer.
    pub fn set(&self, name: &str, of: &str, value: u64) {
        let labels = vec![("name".into(), name.into()), ("of".into(), of.into())];
        self.gauges.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Shows a histogram that somebody else keeps.
    pub fn show(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Kept + Send + Sync + 'static,
    ) {
        let mut registry = self.registry.lock().expect("nothing panics while it holds this");
        registry.register_collector(Box::new(Reader { name, help, read: Box::new(read) }));
    }

    /// Everything, as text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().expect("nothing panics while it holds this");
        encode(&mut text, &registry).expect("writing to memory cannot fail");
        text
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Kept { sum, buckets } = (self.read)();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder
            .encode_descriptor(self.name, self.help, None, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

impl Timer<'_> {
    /// It was answered with `status`.
    pub fn end(self, status: u16) {
        let class = usize::from((status / 100).clamp(1, 5)) - 1;
        self.route.statuses[class].inc();
        self.route.seconds.observe(self.begun.elapsed().as_secs_f64());
    }
}
