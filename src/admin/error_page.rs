//! An answer that says what is wrong.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

/// Any answer of the API that is not 200.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorPage {
    pub error: String,
}

pub(super) fn failed(status: StatusCode, error: String) -> Response {
    (status, Json(ErrorPage { error })).into_response()
}
