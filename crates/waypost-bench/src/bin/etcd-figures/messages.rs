//! etcd's messages as far as the baseline side needs them, defined separately: code that is measured
//! must not be measured with its own tools.

use prost::{Message, Oneof};

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BaselineHeader {
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineKeyValue {
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
pub(crate) struct BaselineRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineRangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<BaselineHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) kvs: Vec<BaselineKeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselinePutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) lease: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineRequestOp {
    #[prost(oneof = "BaselineOp", tags = "1, 2")]
    pub(crate) op: Option<BaselineOp>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum BaselineOp {
    #[prost(message, tag = "1")]
    Range(BaselineRangeRequest),
    #[prost(message, tag = "2")]
    Put(BaselinePutRequest),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineTxnRequest {
    #[prost(message, repeated, tag = "2")]
    pub(crate) success: Vec<BaselineRequestOp>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BaselineTxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<BaselineHeader>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineWatchRequest {
    #[prost(oneof = "BaselineWatchUnion", tags = "1, 3")]
    pub(crate) request_union: Option<BaselineWatchUnion>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum BaselineWatchUnion {
    #[prost(message, tag = "1")]
    Create(BaselineWatchCreateRequest),
    #[prost(message, tag = "3")]
    Progress(BaselineWatchProgressRequest),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BaselineWatchProgressRequest {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineWatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) start_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineWatchResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<BaselineHeader>,
    /// Watch of the response; -1 in a progress response.
    #[prost(int64, tag = "2")]
    pub(crate) watch_id: i64,
    #[prost(bool, tag = "3")]
    pub(crate) created: bool,
    #[prost(message, repeated, tag = "11")]
    pub(crate) events: Vec<BaselineEvent>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineEvent {
    /// Type of the event; 0 is a put.
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) kv: Option<BaselineKeyValue>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BaselineLeaseGrantRequest {
    #[prost(int64, tag = "1")]
    pub(crate) ttl: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BaselineLeaseGrantResponse {
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BaselineLeaseKeepAliveRequest {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BaselineLeaseKeepAliveResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<BaselineHeader>,
    /// TTL in seconds; 0 if the lease has expired.
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BaselineLeaseTimeToLiveRequest {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
    #[prost(bool, tag = "2")]
    pub(crate) keys: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaselineLeaseTimeToLiveResponse {
    /// Remaining time in seconds; -1 if the lease has expired.
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(crate) keys: Vec<Vec<u8>>,
}
