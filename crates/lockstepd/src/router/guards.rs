//! Guards: what must be asked of the coordination shard before guarded work goes where it lands.
//!
//! A token that was handed out stays so for ever: it is asked about once, and remembered. A strict
//! guard is asked about every time, in the order of shard 0's log. The decision itself is taken
//! where the work lands, by [`lockstep_core::guards::Marks`].
//!
//! Work that goes through a shard's log needs nothing but [`Asked::guarded`](super::Asked::guarded).
//! For work that lands elsewhere (a cache home) there is [`Router::guarded`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_core::command::{LockOp, Standing};
use lockstep_core::guards::{Guard, Proof};
use lockstep_core::names::{LockName, ShardId, Token};
use lockstep_core::query::{Answer, Query};
use lockstep_core::{Op, Refusal, Reply};

use super::{Asked, Error, Router};

/// How many locks this node remembers a token of that was surely handed out.
const KNOWN_MAX: usize = 16_384;

/// A client's guard: the lock and the token under which it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The lock.
    pub lock: LockName,
    /// The token of the hold.
    pub token: Token,
    /// Whether the lock must still be held under that token.
    pub strict: bool,
}

/// What this node knows of tokens, and how often guards were refused.
#[derive(Default)]
pub(super) struct Guards {
    known: Mutex<Known>,
    refused: [AtomicU64; 3],
}

/// The largest token of a lock that was surely handed out; the oldest entry makes room.
#[derive(Default)]
struct Known {
    tokens: BTreeMap<LockName, Token>,
    order: VecDeque<LockName>,
}

impl Router {
    /// Does `work` under `claim`: `work` is called with a guard that says what shard 0 knows, and
    /// once more, with a proof that the lock is held, where it answers
    /// [`Refusal::GuardUnproven`]. Without a claim it is called once, with `None`.
    pub async fn guarded<T, W: Future<Output = Result<T, Error>>>(
        &self,
        claim: Option<&Claim>,
        timeout: Duration,
        work: impl Fn(Option<Guard>) -> W,
    ) -> Result<T, Error> {
        let Some(claim) = claim else { return work(None).await };
        let guard = self.prove(claim, claim.strict, timeout).await?;
        let first = work(Some(guard)).await;
        let last = match first {
            Err(Error::Refused(Refusal::GuardUnproven)) => {
                let guard = self.prove(claim, true, timeout).await?;
                work(Some(guard)).await
            }
            first => first,
        };
        last.inspect_err(|error| self.count(error))
    }

    /// How often guards were refused by this node, by error code.
    pub fn guards_refused(&self) -> [(&'static str, u64); 3] {
        let names = ["fenced", "guard_needs_strict", "unknown_token"];
        std::array::from_fn(|nth| (names[nth], self.guards.refused[nth].load(Ordering::Relaxed)))
    }

    /// Asks shard 0 what stands behind a claim. `held` asks whether the lock is held now.
    pub(super) async fn prove(&self, claim: &Claim, held: bool, timeout: Duration) -> Result<Guard, Error> {
        let proof = self.standing(claim, held, timeout).await.inspect_err(|error| self.count(error))?;
        Ok(Guard { lock: claim.lock.clone(), token: claim.token, proof })
    }

    async fn standing(&self, claim: &Claim, held: bool, timeout: Duration) -> Result<Proof, Error> {
        if !held && self.guards.knows(claim) {
            return Ok(Proof::Issued);
        }
        let standing =
            if held { self.check(claim, timeout).await? } else { self.look(claim, timeout).await? };
        let proof = match (standing, held) {
            (Standing::Held, true) => Proof::Held,
            (Standing::HeldPermit, true) => Proof::HeldPermit,
            (Standing::NeverIssued, _) => return Err(Refusal::UnknownToken.into()),
            (_, true) => return Err(Refusal::Fenced { seen: None }.into()),
            (Standing::HeldPermit | Standing::OtherPermits, false) => {
                return Err(Refusal::GuardNeedsStrict.into());
            }
            (Standing::Held | Standing::Over, false) => Proof::Issued,
        };
        if proof != Proof::HeldPermit {
            self.guards.learn(claim);
        }
        Ok(proof)
    }

    async fn check(&self, claim: &Claim, timeout: Duration) -> Result<Standing, Error> {
        let op = LockOp::Check { name: claim.lock.clone(), token: claim.token };
        // Boxed, because a request under a guard makes this one, which is under none.
        match Box::pin(self.execute(ShardId::COORDINATION, Op::Lock(op), &Asked::plain(timeout))).await? {
            Reply::Checked(standing) => Ok(standing),
            _ => Err(Error::NoLeader { shard: ShardId::COORDINATION }),
        }
    }

    async fn look(&self, claim: &Claim, timeout: Duration) -> Result<Standing, Error> {
        let query = Query::Token { name: claim.lock.clone(), token: claim.token };
        match self.query(ShardId::COORDINATION, query, timeout).await? {
            Answer::Token(standing) => Ok(standing),
            _ => Err(Error::NoLeader { shard: ShardId::COORDINATION }),
        }
    }

    pub(super) fn count(&self, error: &Error) {
        let nth = match error {
            Error::Refused(Refusal::Fenced { .. }) => 0,
            Error::Refused(Refusal::GuardNeedsStrict) => 1,
            Error::Refused(Refusal::UnknownToken) => 2,
            _ => return,
        };
        self.guards.refused[nth].fetch_add(1, Ordering::Relaxed);
    }
}

impl Guards {
    fn knows(&self, claim: &Claim) -> bool {
        let known = self.known.lock().expect("nothing panics while it holds this");
        known.tokens.get(&claim.lock).is_some_and(|token| *token >= claim.token)
    }

    fn learn(&self, claim: &Claim) {
        let mut known = self.known.lock().expect("nothing panics while it holds this");
        match known.tokens.get_mut(&claim.lock) {
            Some(token) => *token = (*token).max(claim.token),
            None => {
                known.tokens.insert(claim.lock.clone(), claim.token);
                known.order.push_back(claim.lock.clone());
            }
        }
        if known.tokens.len() > KNOWN_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.tokens.remove(&oldest);
        }
    }
}
