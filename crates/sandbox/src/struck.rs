//! The faults that wait, and which of them a call meets.
//!
//! Faults are tried in the order of injection: delays add up, and the first fault of another kind decides. A
//! fault behind it does not see that call, and does not count it as passed.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    faults::{Action, Fault, On},
    options::Directory,
    store::lock,
};

#[derive(Default)]
pub(super) struct Faults {
    list: Mutex<Vec<Fault>>,
    /// Whether the list is worth a lock: most calls meet no fault.
    any: AtomicBool,
}

/// What a call meets: first the delay, then one of the actions other than `Delay`.
#[derive(Default)]
pub(super) struct Struck {
    pub(super) delay: Duration,
    pub(super) then: Option<Action>,
}

impl Faults {
    pub(super) fn inject(&self, fault: Fault) {
        let mut list = lock(&self.list);
        list.push(fault);
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        let mut list = lock(&self.list);
        list.clear();
        self.any.store(false, Ordering::Release);
    }

    /// Those that may still strike.
    pub(super) fn active(&self) -> Vec<Fault> {
        lock(&self.list).clone()
    }

    pub(super) fn strike(&self, on: On, directory: Option<&Directory>, mailbox: Option<&str>) -> Struck {
        let mut struck = Struck::default();
        if !self.any.load(Ordering::Acquire) {
            return struck;
        }
        let mut list = lock(&self.list);
        for fault in list.iter_mut() {
            if !fault.is_about(on, directory, mailbox) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            if fault.times == Some(0) || !fault.happens() {
                continue;
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            match &fault.action {
                Action::Delay(time) => struck.delay += *time,
                action => {
                    struck.then = Some(action.clone());
                    break;
                }
            }
        }
        list.retain(|fault| fault.times != Some(0));
        self.any.store(!list.is_empty(), Ordering::Release);
        struck
    }
}
