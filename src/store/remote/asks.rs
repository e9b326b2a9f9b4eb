//! What a store is asked besides objects.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
    ReqwestConnector,
};

use crate::config::StoreHeader;
use crate::limits::BUCKET_SETTING_BYTES_MAX;

/// The client by which the library asks, kept for what it has no words for: it has the same proxy, authorities and times.
#[derive(Debug, Clone, Default)]
pub struct Asks {
    client: Arc<Mutex<Option<HttpClient>>>,
    /// What is sent with each request to the bucket.
    headers: Arc<HeaderMap>,
    /// The last client that was made, by its number.
    last: Arc<AtomicUsize>,
}

/// A client that sends headers along, if it is the bucket's: who gives credentials is told nothing of them.
#[derive(Debug)]
struct Sends {
    client: HttpClient,
    headers: Arc<HeaderMap>,
    number: usize,
    last: Arc<AtomicUsize>,
}

impl HttpService for Sends {
    fn call<'s, 'f>(
        &'s self,
        mut request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        if self.last.load(Ordering::Relaxed) == self.number {
            for (name, value) in &*self.headers {
                request.headers_mut().insert(name, value.clone());
            }
        }
        Box::pin(self.client.execute(request))
    }
}

impl HttpConnector for Asks {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        // Those of who gives credentials are made before that of the bucket.
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let client = match self.headers.is_empty() {
            true => client,
            false => HttpClient::new(Sends {
                client,
                headers: self.headers.clone(),
                number,
                last: self.last.clone(),
            }),
        };
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

impl Asks {
    /// One that sends these headers along.
    pub(super) fn sending(headers: &[StoreHeader]) -> Asks {
        let pairs = headers.iter().filter_map(|StoreHeader { name, value }| {
            // They were looked at when they were read.
            let mut value = HeaderValue::from_bytes(value.bytes()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        });
        Asks {
            headers: Arc::new(pairs.collect()),
            ..Asks::default()
        }
    }

    /// What is answered at a URL that is signed, if that is a short text.
    pub(super) async fn get(&self, url: &str) -> Option<String> {
        let client = self.client.lock();
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
