//! GUIDs that the service makes up.

use ring::digest;
use uuid::Uuid;

/// From the thread's own generator: these ids protect nothing, and cost no system call.
pub(super) fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

/// A GUID for a thing that has none of its own, the same one each time.
pub(super) fn uuid_of(name: &str) -> Uuid {
    let hash = digest::digest(&digest::SHA256, name.to_lowercase().as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
