//! What a store is asked besides objects.

use std::sync::{Arc, Mutex, PoisonError};

use ::http::header::CONTENT_LENGTH;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector,
};

use crate::limits::BUCKET_SETTING_BYTES_MAX;

/// The client by which the library asks, kept for what it has no words for: it has the same proxy, authorities and times.
#[derive(Debug, Clone, Default)]
pub struct Asks(Arc<Mutex<Option<HttpClient>>>);

impl HttpConnector for Asks {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        // Those of who gives credentials are made before that of the bucket.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

impl Asks {
    /// What is answered at a URL that is signed, if that is a short text.
    pub(super) async fn get(&self, url: &str) -> Option<String> {
        let client = self.0.lock();
        let client = client.unwrap_or_else(PoisonError::into_inner).clone()?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.parse().ok()?;
        let answer = client.execute(request).await.ok()?;
        let length = answer.headers().get(CONTENT_LENGTH);
        let length: Option<u64> = length.and_then(|it| it.to_str().ok()?.parse().ok());
        let is_short = length.is_none_or(|bytes| bytes <= BUCKET_SETTING_BYTES_MAX);
        if !answer.status().is_success() || !is_short {
            return None;
        }
        let bytes = answer.into_body().bytes().await.ok()?;
        String::from_utf8(bytes.into()).ok()
    }
}
