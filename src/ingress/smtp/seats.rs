//! `smtp.max_connections`, shared by the clients that connect.
//!
//! At first it is not known whose a connection is. Until a login or a sender says so, it belongs to the one
//! tenant that trusts the client's address, or else to the client's network. Clients that no tenant trusts
//! never have all seats, however many networks they come from.

use std::sync::{Arc, Mutex};

use crate::ingress::Party;
use relay_mail::share::{Full, Place, Places, Share};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Seats(Places<Party>);

/// One connection's seat, until the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Seat(Arc<Mutex<Place<Party>>>);

impl Seats {
    pub(super) fn new(max_connections: usize) -> Self {
        Self(Places::new(max_connections as u64, Share::BRIEF))
    }

    pub(super) fn take(&self, party: Party) -> Result<Seat, Full> {
        let place = match party {
            Party::Stranger(_) => self.0.take_among(party, Party::Strangers)?,
            party => self.0.take(party)?,
        };
        Ok(Seat(Arc::new(Mutex::new(place))))
    }
}

impl Seat {
    /// Gives the seat to the party that the connection turned out to belong to. [`Full`]: that party has its
    /// share already, and the seat keeps its owner.
    pub(super) fn give_to(&self, party: &Party) -> Result<(), Full> {
        let among = matches!(party, Party::Stranger(_)).then_some(&Party::Strangers);
        // A panic elsewhere leaves a place that still has an owner.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).give_to(party, among)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn stranger(number: u32) -> Party {
        Party::Stranger(Ipv4Addr::from_bits(number << 8).into())
    }

    #[test]
    fn strangers_never_have_all_seats_however_many_they_are() {
        let seats = Seats::new(90);
        let tenant = Party::Tenant("contoso".parse().unwrap());
        let known: Vec<_> = (0..40).map(|_| seats.take(tenant.clone()).unwrap()).collect();
        let mut strangers: Vec<_> = (0..200).map_while(|n| seats.take(stranger(n)).ok()).collect();
        assert_eq!((strangers.len(), seats.take(stranger(999)).unwrap_err()), (45, Full::Share));
        seats.take(Party::Tenant("fabrikam".parse().unwrap())).unwrap();

        // A client that logs in is no longer a stranger.
        strangers.truncate(44);
        strangers[0].give_to(&tenant).unwrap();
        seats.take(stranger(999)).unwrap();
        drop((known, strangers));
        assert_eq!((0..200).map_while(|n| seats.take(stranger(n)).ok()).collect::<Vec<_>>().len(), 80);
    }

    #[test]
    fn a_tenant_has_its_share_whichever_way_its_clients_come() {
        let seats = Seats::new(90);
        let tenant = Party::Tenant("contoso".parse().unwrap());
        let known: Vec<_> = std::iter::from_fn(|| seats.take(tenant.clone()).ok()).collect();
        assert_eq!(known.len(), 80);
        let come: Vec<_> = (0..5).map(|n| seats.take(stranger(n)).unwrap()).collect();
        assert_eq!(come[0].give_to(&tenant), Err(Full::Share));
        assert_eq!(come[0].give_to(&Party::Tenant("fabrikam".parse().unwrap())), Ok(()));
    }
}
