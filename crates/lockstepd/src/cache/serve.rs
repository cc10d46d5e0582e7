//! Answers what other nodes ask this one, as a home or as a holder of copies.
//!
//! It only takes messages apart; the machines know the answers.

use async_trait::async_trait;
use bytes::Bytes;
use lockstep_core::cache::message::{Answer, Request};
use lockstep_core::names::NodeId;

use super::Cache;
use crate::peer::{Error, Handler};

#[async_trait]
impl Handler for Cache {
    async fn handle(&self, from: NodeId, payload: Bytes) -> Result<Bytes, Error> {
        let request = postcard::from_bytes(&payload).map_err(|_| Error::Malformed)?;
        let answer = self.answer(from, request).await?;
        postcard::to_stdvec(&answer).map(Bytes::from).map_err(|_| Error::Malformed)
    }
}

impl Cache {
    async fn answer(&self, from: NodeId, request: Request) -> Result<Answer, Error> {
        let now = self.now();
        let parked = {
            let mut state = self.lock();
            match request {
                Request::Read { to, key, copy } => {
                    let (answer, outputs) = state.home.read(from, to, &key, copy, now);
                    self.carry_out_home(&mut state, outputs);
                    return Ok(answer);
                }
                Request::Renew { to } => return Ok(state.home.renew(from, to, now)),
                Request::Invalidate(order) => {
                    state.copies.invalidate(&order.key);
                    return Ok(Answer::Invalidated);
                }
                Request::Write { to, write } => {
                    let (tag, parked) = state.parked.caller();
                    let outputs = state.home.write(tag, to, write, now);
                    self.carry_out_home(&mut state, outputs);
                    parked
                }
                Request::Seal { ring_epoch } => {
                    let (tag, parked) = state.parked.caller();
                    let outputs = state.home.seal(tag, ring_epoch);
                    self.carry_out_home(&mut state, outputs);
                    parked
                }
            }
        };
        parked.await.map_err(|_| Error::NoAnswer)
    }
}
