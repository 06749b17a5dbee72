//! Secrets in the types of `oauth2`, which does not wipe them.

use std::{mem, ops::Deref};

use oauth2::{RefreshToken, ResourceOwnerPassword};
use zeroize::Zeroizing;

/// Wiped when it is dropped, even when the request with it is interrupted.
pub(super) struct Wiped<T: SecretType>(T);

/// A type of `oauth2` that gives back the text that it was made from.
pub(super) trait SecretType {
    fn of(text: String) -> Self;
    fn into_text(self) -> String;
}

impl<T: SecretType> Wiped<T> {
    pub(super) fn new(secret: T) -> Self {
        Self(secret)
    }
}

impl<T: SecretType> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: SecretType> Drop for Wiped<T> {
    fn drop(&mut self) {
        let secret = mem::replace(&mut self.0, T::of(String::new()));
        drop(Zeroizing::new(secret.into_text()));
    }
}

macro_rules! secret_types {
    ($($name:ty),*) => {$(
        impl SecretType for $name {
            fn of(text: String) -> Self {
                Self::new(text)
            }

            fn into_text(self) -> String {
                self.into_secret()
            }
        }
    )*};
}

secret_types!(RefreshToken, ResourceOwnerPassword);
