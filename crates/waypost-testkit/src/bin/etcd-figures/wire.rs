//! etcd's messages as far as the bare side needs them, defined separately: code that is measured
//! must not be measured with its own tools.

use prost::{Message, Oneof};

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BareHeader {
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareKeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(crate) create_revision: i64,
    #[prost(int64, tag = "3")]
    pub(crate) mod_revision: i64,
    #[prost(int64, tag = "4")]
    pub(crate) version: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) value: Vec<u8>,
    #[prost(int64, tag = "6")]
    pub(crate) lease: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareRangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<BareHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) kvs: Vec<BareKeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BarePutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareRequestOp {
    #[prost(oneof = "BareOp", tags = "2")]
    pub(crate) op: Option<BareOp>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum BareOp {
    #[prost(message, tag = "2")]
    Put(BarePutRequest),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareTxnRequest {
    #[prost(message, repeated, tag = "2")]
    pub(crate) success: Vec<BareRequestOp>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BareTxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<BareHeader>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareWatchRequest {
    #[prost(oneof = "Ask", tags = "1")]
    pub(crate) ask: Option<Ask>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Ask {
    #[prost(message, tag = "1")]
    Create(BareWatchCreateRequest),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareWatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) start_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareWatchResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<BareHeader>,
    #[prost(bool, tag = "3")]
    pub(crate) created: bool,
    #[prost(message, repeated, tag = "11")]
    pub(crate) events: Vec<BareEvent>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BareEvent {
    /// Type of the event; 0 is a put.
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) kv: Option<BareKeyValue>,
}
