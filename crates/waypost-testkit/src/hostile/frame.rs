//! HTTP/2 frames as bytes (RFC 9113), limited to what deliberate misbehavior requires. Knows no
//! connection and decodes no headers.

/// Frame types (RFC 9113, 6).
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Flags: `END_STREAM` of DATA and HEADERS, `ACK` of SETTINGS and PING.
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113, 7).
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;
/// Number of error codes, which begin at 0.
pub(super) const ERROR_CODES: u32 = 14;

/// Id of `SETTINGS_MAX_CONCURRENT_STREAMS`.
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;

/// Greatest stream id; as the last stream id of GOAWAY it excludes no stream.
pub(super) const GREATEST_ID: u32 = (1 << 31) - 1;

/// Connection preface: the bytes that a client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADER_LEN: usize = 9;

/// HTTP/2 frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    /// Parses the first frame of `bytes` and returns it with its length; `None` until it is
    /// complete.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let header = bytes.get(..HEADER_LEN)?;
        let length =
            usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & GREATEST_ID;
        let payload = bytes.get(HEADER_LEN..HEADER_LEN + length)?;
        Some((
            Self::new(header[3], header[4], stream, payload),
            HEADER_LEN + length,
        ))
    }

    /// Returns the bytes of the frame on the wire.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len())
            .unwrap_or_default()
            .to_be_bytes();
        let header = [
            &length[1..],
            &[self.kind, self.flags],
            &self.stream.to_be_bytes(),
        ]
        .concat();
        [header, self.payload.clone()].concat()
    }

    /// Returns true for DATA and HEADERS with END_STREAM.
    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// Creates SETTINGS with one setting, or none.
    pub(super) fn settings(setting: Option<(u16, u32)>) -> Self {
        let payload =
            setting.map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        Self::new(SETTINGS, 0, 0, payload.unwrap_or_default())
    }

    /// Creates the acknowledgement of SETTINGS.
    pub(super) fn settings_ack() -> Self {
        Self::new(SETTINGS, ACK, 0, [])
    }

    /// Creates the acknowledgement of a PING.
    pub(super) fn pong(ping: Self) -> Self {
        Self { flags: ACK, ..ping }
    }

    /// Creates GOAWAY with the id of the last stream that was processed.
    pub(super) fn goaway(last: u32, code: u32) -> Self {
        Self::new(
            GOAWAY,
            0,
            0,
            [last.to_be_bytes(), code.to_be_bytes()].concat(),
        )
    }

    /// Creates RST_STREAM.
    pub(super) fn reset(stream: u32, code: u32) -> Self {
        Self::new(RST_STREAM, 0, stream, code.to_be_bytes())
    }

    /// Creates WINDOW_UPDATE; stream 0 is the connection.
    pub(super) fn window_update(stream: u32, bytes: u32) -> Self {
        Self::new(WINDOW_UPDATE, 0, stream, bytes.to_be_bytes())
    }

    /// Creates HEADERS with status 200 and `content-type: application/grpc`.
    pub(super) fn response(stream: u32) -> Self {
        Self::new(
            HEADERS,
            END_HEADERS,
            stream,
            [
                &[STATUS_200][..],
                &literal("content-type", "application/grpc"),
            ]
            .concat(),
        )
    }

    /// Creates DATA.
    pub(super) fn data(stream: u32, payload: &[u8]) -> Self {
        Self::new(DATA, 0, stream, payload)
    }

    /// Creates trailers with `grpc-status: 0`, which end the stream.
    pub(super) fn trailers(stream: u32) -> Self {
        Self::new(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            literal("grpc-status", "0"),
        )
    }
}

/// Encoding of `:status: 200` by HPACK's static table (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// Encodes a header field without indexing and with a new name (RFC 7541, 6.2.2); both parts are
/// shorter than 127 bytes.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        [
            &[u8::try_from(text.len()).unwrap_or_default()][..],
            text.as_bytes(),
        ]
        .concat()
    };
    [vec![0], text(name), text(value)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_parsed_once_it_is_whole() {
        let frame = Frame::goaway(7, ENHANCE_YOUR_CALM);
        let bytes = [frame.to_bytes(), Frame::settings_ack().to_bytes()].concat();
        assert_eq!(Frame::parse(&bytes), Some((frame, 17)));
        assert_eq!(Frame::parse(&bytes[..16]), None);
        assert_eq!(Frame::parse(&bytes[17..]), Some((Frame::settings_ack(), 9)));
    }

    #[test]
    fn the_end_of_a_stream_is_a_flag_of_two_kinds_only() {
        assert!(Frame::trailers(1).ends_stream());
        assert!(!Frame::data(1, b"x").ends_stream() && !Frame::settings_ack().ends_stream());
    }
}
