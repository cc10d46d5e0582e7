//! The bytes between two nodes: length-delimited frames, each led by its kind.
//!
//! ```text
//! length u32 | kind u8 | body
//! hello    1   postcard Hello, first on every connection, readable by every version
//! welcome  2   nothing
//! refused  3   a sentence
//! request  4   id u64 | service u8 | payload
//! answer   5   id u64 | payload
//! failed   6   id u64
//! cancel   7   id u64
//! ping     8   nothing
//! pong     9   nothing
//! ```
//! Integers are little-endian. It knows nothing of connections.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::Service;

/// The version of everything after the handshake.
pub(super) const VERSION: u16 = 4;
/// The largest frame that is read, in bytes. A connection that announces more is closed.
pub(super) const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest frame before both sides have greeted: a stranger is not given memory for more.
pub(super) const GREETING_BYTES_MAX: usize = 4 * 1024;
/// What a request adds to its payload, at most.
const REQUEST_HEAD: usize = 16;
const MAGIC: [u8; 4] = *b"LSTP";
const LENGTH: usize = 4;

/// Who calls, and whom it expects to reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    magic: [u8; 4],
    pub(super) version: u16,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) lane: u8,
    pub(super) cluster: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Hello(Hello),
    Welcome,
    Refused(String),
    Request { id: u64, service: Service, payload: Bytes },
    Answer { id: u64, payload: Bytes },
    Failed { id: u64 },
    Cancel { id: u64 },
    Ping,
    Pong,
}

/// Bytes that are no frame: the connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("a frame of {0} bytes is larger than allowed")]
    TooLarge(usize),
    #[error("bytes that are no frame")]
    NoFrame,
}

impl Hello {
    pub(super) fn new(from: u64, to: u64, lane: u8, cluster: Option<String>) -> Self {
        Self { magic: MAGIC, version: VERSION, from, to, lane, cluster }
    }
}

impl Frame {
    pub(super) fn write(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32_le(0);
        match self {
            Self::Hello(hello) => {
                out.put_u8(1);
                out.extend_from_slice(&postcard::to_stdvec(hello).expect("writing to memory cannot fail"));
            }
            Self::Welcome => out.put_u8(2),
            Self::Refused(why) => {
                out.put_u8(3);
                out.extend_from_slice(why.as_bytes());
            }
            Self::Request { id, service, payload } => {
                out.put_u8(4);
                out.put_u64_le(*id);
                out.put_u8(*service as u8);
                out.extend_from_slice(payload);
            }
            Self::Answer { id, payload } => {
                out.put_u8(5);
                out.put_u64_le(*id);
                out.extend_from_slice(payload);
            }
            Self::Failed { id } => {
                out.put_u8(6);
                out.put_u64_le(*id);
            }
            Self::Cancel { id } => {
                out.put_u8(7);
                out.put_u64_le(*id);
            }
            Self::Ping => out.put_u8(8),
            Self::Pong => out.put_u8(9),
        }
        let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX);
        out[start..start + LENGTH].copy_from_slice(&length.to_le_bytes());
    }

    /// Whether a request or an answer with this payload can be sent at all.
    pub(super) fn holds(payload: &Bytes) -> bool {
        payload.len() <= FRAME_BYTES_MAX - REQUEST_HEAD
    }

    /// Takes the first whole frame out of `input`; `None` while it is not all there.
    pub(super) fn read(input: &mut BytesMut) -> Result<Option<Self>, Broken> {
        Self::read_up_to(FRAME_BYTES_MAX, input)
    }

    /// Like [`Self::read`], with a limit of its own.
    pub(super) fn read_up_to(max: usize, input: &mut BytesMut) -> Result<Option<Self>, Broken> {
        let Some(head) = input.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > max {
            return Err(Broken::TooLarge(length));
        }
        if input.len() < LENGTH + length {
            input.reserve(LENGTH + length - input.len());
            return Ok(None);
        }
        input.advance(LENGTH);
        Self::parse(input.split_to(length).freeze()).map(Some).ok_or(Broken::NoFrame)
    }

    fn parse(mut body: Bytes) -> Option<Self> {
        let kind = body.try_get_u8().ok()?;
        Some(match kind {
            1 => {
                let hello: Hello = postcard::from_bytes(&body).ok()?;
                (hello.magic == MAGIC).then_some(Self::Hello(hello))?
            }
            2 => Self::Welcome,
            3 => Self::Refused(String::from_utf8_lossy(&body).into_owned()),
            4 => {
                let id = body.try_get_u64_le().ok()?;
                let service = Service::from_wire(body.try_get_u8().ok()?)?;
                Self::Request { id, service, payload: body }
            }
            5 => Self::Answer { id: body.try_get_u64_le().ok()?, payload: body },
            6 => Self::Failed { id: body.try_get_u64_le().ok()? },
            7 => Self::Cancel { id: body.try_get_u64_le().ok()? },
            8 => Self::Ping,
            9 => Self::Pong,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.write(&mut bytes);
        for cut in 0..bytes.len() {
            let mut part = BytesMut::from(&bytes[..cut]);
            assert_eq!(Frame::read(&mut part), Ok(None), "{cut} bytes of {frame:?}");
        }
        assert_eq!(Frame::read(&mut bytes).as_ref(), Ok(&Some(frame.clone())));
        assert!(bytes.is_empty());
    }

    #[test]
    fn every_frame_is_read_back_once_it_is_all_there() {
        let payload = Bytes::from_static(b"payload");
        round_trip(&Frame::Hello(Hello::new(1, 2, 3, Some("cluster".into()))));
        round_trip(&Frame::Welcome);
        round_trip(&Frame::Refused("why".into()));
        round_trip(&Frame::Request { id: 7, service: Service::Cache, payload: payload.clone() });
        round_trip(&Frame::Answer { id: 7, payload });
        round_trip(&Frame::Failed { id: 7 });
        round_trip(&Frame::Cancel { id: 7 });
        round_trip(&Frame::Ping);
        round_trip(&Frame::Pong);
    }

    #[test]
    fn garbage_is_broken_not_a_panic() {
        let mut huge = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert_eq!(Frame::read(&mut huge), Err(Broken::TooLarge(u32::MAX as usize)));
        let mut stranger = BytesMut::from(&5_000_u32.to_le_bytes()[..]);
        assert_eq!(Frame::read_up_to(GREETING_BYTES_MAX, &mut stranger), Err(Broken::TooLarge(5_000)));
        for body in [&b""[..], b"\x00", b"\x04abc", b"\x04\0\0\0\0\0\0\0\0\xff", b"\x01garbage", b"\xff"] {
            let mut bytes = BytesMut::new();
            bytes.put_u32_le(u32::try_from(body.len()).unwrap());
            bytes.extend_from_slice(body);
            assert_eq!(Frame::read(&mut bytes), Err(Broken::NoFrame), "{body:?}");
        }
    }
}
