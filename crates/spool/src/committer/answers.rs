//! What happens once a group is durable: its callers are answered, and the scheduler hears of it.

use std::collections::HashSet;

use super::{Committer, Context, Effect};
use crate::{
    Accepted, Event, Phase, SpoolError, State, Waiting, clock,
    operation::{Operation, Responder, respond},
    store::guarded,
};
use relay_mail::{MessageId, TenantName};

impl Committer {
    pub(super) fn answer(&mut self, operation: Operation, effect: Result<Effect, SpoolError>) {
        // The caller may have gone. The change is made all the same.
        match (operation, effect) {
            (Operation::Claim { answer, .. }, Ok(Effect::Claimed(granted))) => {
                self.context.tally.tenant(&granted.lane.tenant).lease();
                self.leases.insert(granted.lease.id, granted.lease.epoch);
                let _ = answer.send(Ok(granted));
            }
            (Operation::Claim { answer, .. }, Err(error)) => respond(answer, Err(error)),
            (Operation::Settle { lease, answer, .. }, effect) => {
                if self.leases.get(&lease.id) == Some(&lease.epoch) {
                    self.leases.remove(&lease.id);
                }
                self.tell(answer, effect);
            }
            (Operation::Remember { answer, .. }, effect) => respond(answer, effect.map(drop)),
            (Operation::Accept { answer, .. }, effect) => self.hand_out(answer, effect),
            (Operation::Unwind { accepted, answer, .. }, effect) => self.unwound(accepted, answer, effect),
            (Operation::Find { answer, .. }, Ok(Effect::Found(found))) => respond(answer, Ok(found)),
            (Operation::Find { answer, .. }, Err(error)) => respond(answer, Err(error)),
            (Operation::TellAgain { tenants, after, answer }, _) => {
                let _ = answer.send(self.tell_again(&tenants, after));
            }
            (Operation::Alter { id, answer, .. } | Operation::Replace { id, answer, .. }, effect) => {
                if effect.is_ok() {
                    // An operator has found the message before its caller was done with it, and the
                    // operator's word counts.
                    self.context.announcer.take_over(id);
                }
                self.tell(answer, effect);
            }
            (Operation::Claim { .. } | Operation::Find { .. } | Operation::Moved(_) | Operation::Mend, _) => {
            }
        }
    }

    /// Gives the message to the caller that submitted it. If that caller no longer waits, the message is
    /// dropped and so announced.
    fn hand_out(&self, answer: Responder<Accepted>, effect: Result<Effect, SpoolError>) {
        let Context { announcer, operations, tally, .. } = &self.context;
        let waiting = match effect {
            Ok(Effect::Accepted(waiting, len)) => {
                tally.tenant(&waiting.lane.tenant).enter(len);
                announcer.hold_back(waiting.id);
                waiting
            }
            Ok(Effect::Known(waiting)) => waiting,
            // Planning an acceptance has no other effect.
            Ok(_) => return,
            Err(error) => return respond(answer, Err(error)),
        };
        let _ = answer.send(Ok(announcer.accepted(waiting, operations.clone())));
    }

    fn unwound(&self, accepted: Accepted, answer: Responder<()>, effect: Result<Effect, SpoolError>) {
        let id = accepted.id();
        let unwound = match effect {
            Ok(Effect::Unwound(lane, len)) => {
                self.context.tally.tenant(&lane.tenant).leave(len);
                if !accepted.forget() {
                    self.announce(Event::Left { id, lane });
                }
                Ok(())
            }
            Ok(_) => {
                accepted.forget();
                Ok(())
            }
            Err(error) => Err(error),
        };
        let _ = answer.send(unwound);
    }

    /// Tells of a part of the messages only, so that no commit has to wait long.
    fn tell_again(
        &self,
        tenants: &HashSet<TenantName>,
        after: Option<MessageId>,
    ) -> Result<Option<MessageId>, SpoolError> {
        const AT_A_TIME: usize = 4096;
        let now = clock::now();
        let mut found = |id, state: State| {
            let Some(lane) = self.lanes.lane(state.lane).filter(|lane| tenants.contains(&lane.tenant)) else {
                return;
            };
            let event = match state.phase {
                Phase::Waiting { due } => {
                    let due = self.context.credible_due(due, &state, now);
                    Event::Waiting(Waiting { id, lane, due })
                }
                Phase::Held => {
                    let reason = self.remembered.get(&id).and_then(|remembered| remembered.held.clone());
                    Event::Held { id, lane, reason }
                }
                // Its worker reports the outcome.
                Phase::Leased => return,
            };
            self.context.announcer.announce_found(id, event);
        };
        let walk = || guarded(|| self.store.walk(after, AT_A_TIME, &mut found));
        self.context.stall.index.during(walk).map_err(|error| self.latch(&error))
    }

    fn tell(&self, answer: Responder<()>, effect: Result<Effect, SpoolError>) {
        let tally = self.context.tally.clone();
        match effect {
            Ok(Effect::Settled { lane, left, then, entering, because }) => {
                let tenant = tally.tenant(&lane.tenant);
                tenant.release();
                if let Some(len) = left {
                    tenant.leave(len);
                }
                for (waiting, len) in &entering {
                    tally.tenant(&waiting.lane.tenant).enter(*len);
                }
                let entering = entering.into_iter().map(|(waiting, _)| Event::Waiting(waiting));
                // First: whoever has the answer may ask the scheduler about the message.
                then.into_iter().chain(entering).for_each(|event| self.announce(event));
                let _ = answer.send(because.map_or(Ok(()), Err));
            }
            Ok(Effect::Altered { event, left, entering }) => {
                if let Some((lane, len)) = left {
                    tally.tenant(&lane.tenant).leave(len);
                }
                if let Some((waiting, len)) = &entering {
                    tally.tenant(&waiting.lane.tenant).enter(*len);
                }
                self.announce(event);
                entering.into_iter().for_each(|(waiting, _)| self.announce(Event::Waiting(waiting)));
                let _ = answer.send(Ok(()));
            }
            // The others are answered elsewhere.
            Ok(_) => respond(answer, Ok(())),
            Err(error) => respond(answer, Err(error)),
        }
    }

    pub(crate) fn announce(&self, event: Event) {
        self.context.announcer.announce(event);
    }
}
