//! Whose operations the next group carries.
//!
//! Operations come in the order in which they were asked for, but for claims: a claim begins a delivery, and a group that
//! carries accepts, whose clients wait for their 250, takes few of them. So a burst of mail is taken in first, and deliveries go
//! on with a part of the time. No claim waits for more than its turn: each group takes some.

use std::collections::VecDeque;

use tokio::sync::mpsc::{Receiver, error::TryRecvError};

use super::operation::Operation;

/// Operations committed together at most.
pub(super) const GROUP: usize = 512;
/// A group with accepts takes one claim for so many of them,
const ACCEPTS_A_CLAIM: usize = 8;
/// or so many, whichever is more.
const FEW_CLAIMS: usize = 2;

pub(super) struct Turns {
    operations: Receiver<Operation>,
    /// In the order in which they came.
    claims: VecDeque<Operation>,
}

impl Turns {
    pub(super) fn new(operations: Receiver<Operation>) -> Self {
        Self { operations, claims: VecDeque::new() }
    }

    /// Waits for operations, and puts those of the next group into `group`, which is empty. `false`: there will be no more.
    pub(super) fn next(&mut self, group: &mut Vec<Operation>) -> bool {
        if self.claims.is_empty() {
            match self.operations.blocking_recv() {
                Some(operation) => self.sort(operation, group),
                None => return false,
            }
        }
        while group.len() < GROUP
            && let Ok(operation) = self.operations.try_recv()
        {
            self.sort(operation, group);
        }
        let accepts = group.iter().filter(|operation| matches!(operation, Operation::Accept { .. })).count();
        let claims = match accepts {
            0 => GROUP,
            _ => (accepts / ACCEPTS_A_CLAIM).max(FEW_CLAIMS),
        };
        group.extend(self.claims.drain(..claims.min(self.claims.len())));
        true
    }

    /// The next operation whatever it is, without waiting for one.
    pub(super) fn try_next(&mut self) -> Result<Operation, TryRecvError> {
        self.claims.pop_front().map_or_else(|| self.operations.try_recv(), Ok)
    }

    fn sort(&mut self, operation: Operation, group: &mut Vec<Operation>) {
        match operation {
            Operation::Claim { .. } => self.claims.push_back(operation),
            _ => group.push(operation),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{
        mpsc::{Sender, channel},
        oneshot,
    };

    use super::*;
    use crate::{
        message::MessageId,
        spool::{BodyPlace, Lane, operation::Stored},
    };

    fn accept() -> Operation {
        let lane = Lane { tenant: "contoso".parse().unwrap(), author: "a@contoso.example".parse().unwrap() };
        let place = BodyPlace { segment: None, offset: 0, len: 1 };
        let new =
            Stored { id: MessageId::from_bytes([0; 8]), lane, place, since: tokio::time::Instant::now() };
        Operation::Accept { new, answer: oneshot::channel().0 }
    }

    fn claim(n: u64) -> Operation {
        Operation::Claim { id: MessageId::from_bytes(n.to_be_bytes()), answer: oneshot::channel().0 }
    }

    fn ask(operations: &Sender<Operation>, accepts: usize, claims: std::ops::Range<u64>) {
        claims.for_each(|n| operations.try_send(claim(n)).unwrap());
        (0..accepts).for_each(|_| operations.try_send(accept()).unwrap());
    }

    /// How many accepts and which claims the next group has.
    fn next(turns: &mut Turns) -> (usize, Vec<u64>) {
        let mut group = Vec::new();
        assert!(turns.next(&mut group));
        let id = |operation: &Operation| match operation {
            Operation::Claim { id, .. } => Some(u64::from_be_bytes(id.to_bytes())),
            _ => None,
        };
        let claims: Vec<_> = group.iter().filter_map(id).collect();
        (group.len() - claims.len(), claims)
    }

    #[test]
    fn accepts_go_first_and_claims_all_the_same() {
        let (operations, waiting) = channel(1000);
        let mut turns = Turns::new(waiting);
        ask(&operations, 40, 0..20);
        assert_eq!(next(&mut turns), (40, vec![0, 1, 2, 3, 4]));
        ask(&operations, 1, 20..21);
        assert_eq!(next(&mut turns), (1, vec![5, 6]));
        // Nobody waits for a 250.
        assert_eq!(next(&mut turns), (0, (7..21).collect()));
        ask(&operations, 0, 21..23);
        assert_eq!(next(&mut turns), (0, vec![21, 22]));
        drop(operations);
        assert!(!turns.next(&mut Vec::new()));
    }

    #[test]
    fn a_spool_that_cannot_write_gets_at_all_of_them() {
        let (operations, waiting) = channel(1000);
        let mut turns = Turns::new(waiting);
        ask(&operations, 1, 0..5);
        next(&mut turns);
        ask(&operations, 1, 0..0);
        assert_eq!(std::iter::from_fn(|| turns.try_next().ok()).count(), 4);
    }
}
