//! Head of a request, kept so that it can be sent again.

use std::mem;

use http::header::HeaderName;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Uri, Version, request};

use super::headers::{field_size, strip_connection_specific};

/// Method, path and headers of one call.
pub(crate) struct RequestHead {
    method: Method,
    path: PathAndQuery,
    headers: Headers,
    key: Option<Box<str>>,
    extensions: Extensions,
}

/// Affinity key of a call, as an extension of its request: strategies that use one send equal keys
/// to the same node.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::hash::{DefaultHasher, Hash, Hasher};
/// use waypost_core::balance::{PickContext, Picker, ReadySet};
/// use waypost_http::PickKey;
///
/// # #[derive(Debug)]
/// # struct ByKey;
/// // The picker of a strategy.
/// impl Picker for ByKey {
///     fn pick(&self, _: &ReadySet, context: &PickContext<'_>) -> usize {
///         let mut hasher = DefaultHasher::new();
///         context.key.hash(&mut hasher);
///         hasher.finish() as usize
///     }
/// }
/// # use waypost_core::balance::{BuildContext, Decision, Strategy};
/// # impl Strategy for ByKey {
/// #     fn name(&self) -> &'static str { "by_key" }
/// #     fn build(&self, _: &ReadySet, _: &mut BuildContext<'_>) -> Box<dyn Picker> { Box::new(ByKey) }
/// # }
///
/// # let mut config = ChannelConfig::default();
/// # config.balance.strategy = Arc::new(ByKey);
/// # let registry = nodes([serve(200).await, serve(200).await]);
/// # let client = Client::new(registry, ClientConfig::default());
/// # let users = channel(&client, config);
/// # while users.snapshot().nodes.iter().filter(|node| node.decision == Decision::Picked).count() < 2 {
/// #     tokio::time::sleep(Duration::from_millis(10)).await;
/// # }
/// # let mut nodes = Vec::new();
/// # for _ in 0..2 {
/// let mut request = Request::get("/users/7").body(Empty::<Bytes>::new())?;
/// request.extensions_mut().insert(PickKey("7".to_owned()));
/// let response = users.call(request).await?;
/// # let served_by = response.extensions().get::<waypost_http::ServedBy>();
/// # nodes.extend(served_by.map(|served_by| served_by.node.id.clone()));
/// # }
/// # assert_eq!(nodes[0], nodes[1]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickKey(pub String);

/// Headers of a call. A map can be sent only once, and most calls are sent once. The copy kept for
/// another attempt is a list, which costs a third of a second map.
enum Headers {
    Unsent(HeaderMap),
    Sent(Vec<(HeaderName, HeaderValue)>),
}

impl RequestHead {
    pub(crate) fn new(mut parts: request::Parts) -> Self {
        let path = parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        let key = parts.extensions.remove::<PickKey>().map(|key| key.0.into());
        parts.extensions.clear();
        let mut headers = parts.headers;
        // h2 checks only the first value of each name. Names with a single value are left to
        // `strip`: nearly every request has nothing to remove.
        if headers.len() != headers.keys_len() {
            strip_connection_specific(&mut headers);
        }
        let headers = Headers::Unsent(headers);
        Self {
            method: parts.method,
            path,
            headers,
            key,
            extensions: parts.extensions,
        }
    }

    /// Removes the fields that HTTP/2 forbids, after h2 refused a request. Returns false if there
    /// are none.
    #[cold]
    pub(crate) fn strip(&mut self) -> bool {
        let mut headers = self.headers.take();
        let before = headers.len();
        strip_connection_specific(&mut headers);
        let removed = headers.len() < before;
        self.headers = Headers::Unsent(headers);
        removed
    }

    /// Returns the size of the headers as counted by HTTP/2 (RFC 9113, 6.5.2), before the protocol
    /// prepares them for an attempt.
    pub(crate) fn header_list_size(&self) -> usize {
        self.headers.list_size()
    }

    /// Returns the caller's affinity key.
    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Returns the path without its query.
    pub(crate) fn path(&self) -> &str {
        self.path.path()
    }

    /// Creates a request to `authority`, with headers prepared by `prepare`.
    pub(crate) fn request(
        &mut self,
        scheme: &Scheme,
        authority: &Authority,
        prepare: impl FnOnce(&mut HeaderMap),
    ) -> Request<()> {
        let mut parts = Parts::default();
        parts.scheme = Some(scheme.clone());
        parts.authority = Some(authority.clone());
        parts.path_and_query = Some(self.path.clone());
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.headers_mut() = self.headers.take();
        prepare(request.headers_mut());
        request
    }

    /// Takes the request's extensions, which are empty: their allocation is reused for the
    /// response.
    pub(crate) fn take_extensions(&mut self) -> Extensions {
        mem::take(&mut self.extensions)
    }
}

impl Headers {
    fn list_size(&self) -> usize {
        match self {
            Self::Unsent(headers) => headers
                .iter()
                .map(|(name, value)| field_size(name.as_str(), value))
                .sum(),
            Self::Sent(kept) => kept
                .iter()
                .map(|(name, value)| field_size(name.as_str(), value))
                .sum(),
        }
    }

    fn take(&mut self) -> HeaderMap {
        match self {
            Self::Unsent(headers) => {
                let kept = headers
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                let headers = mem::take(headers);
                *self = Self::Sent(kept);
                headers
            }
            Self::Sent(kept) => kept.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_gets_the_same_headers_and_what_was_fitted_to_another_is_gone() {
        let request = Request::post("/a.B/C?d=e")
            .header("twice", "1")
            .header("twice", "2")
            .header("once", "3")
            .body(())
            .unwrap();
        let original = request.headers().clone();
        let mut head = RequestHead::new(request.into_parts().0);
        assert_eq!(head.path(), "/a.B/C");
        for attempt in 0..3 {
            let request = head.request(&Scheme::HTTP, &Authority::from_static("h:1"), |headers| {
                assert_eq!(*headers, original, "attempt {attempt}");
                headers.insert("once", attempt.into());
            });
            assert_eq!(request.uri(), "http://h:1/a.B/C?d=e");
            assert_eq!(
                (request.method(), request.version()),
                (&Method::POST, Version::HTTP_2)
            );
            assert_eq!(request.headers()["once"], attempt.to_string());
        }
    }
}
