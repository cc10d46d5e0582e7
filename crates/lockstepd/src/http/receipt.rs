//! Receipts and message ids as text.
//!
//! A receipt is opaque to clients. Its checksum tells a mangled one from a stale one.

use lockstep_client::wire::Code;
use lockstep_core::names::{MessageId, Receipt, ShardId};

use super::error::Fault;

/// `shard-number`: unique in the cluster.
pub(super) fn message_id(shard: ShardId, id: MessageId) -> String {
    format!("{shard}-{}", id.0)
}

pub(super) fn write(shard: ShardId, receipt: Receipt) -> String {
    let body = format!("{:x}.{:x}.{:x}", shard.0, receipt.message.0, receipt.delivery);
    format!("r{body}.{:08x}", crc32fast::hash(body.as_bytes()))
}

pub(super) fn read(text: &str) -> Result<(ShardId, Receipt), Fault> {
    parse(text).ok_or_else(|| {
        Fault::new(Code::BadReceipt, "The receipt cannot be read. Send it exactly as it was received.")
    })
}

fn parse(text: &str) -> Option<(ShardId, Receipt)> {
    let (body, crc) = text.strip_prefix('r')?.rsplit_once('.')?;
    if crc.len() != 8 || u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(body.as_bytes()) {
        return None;
    }
    let mut parts = body.split('.').map(|part| u64::from_str_radix(part, 16).ok());
    let shard = u32::try_from(parts.next()??).ok()?;
    let receipt = Receipt { message: MessageId(parts.next()??), delivery: parts.next()?? };
    parts.next().is_none().then_some((ShardId(shard), receipt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_comes_back_and_a_mangled_one_is_refused() {
        let receipt = Receipt { message: MessageId(77), delivery: 1 << 40 };
        let text = write(ShardId(3), receipt);
        assert_eq!(parse(&text), Some((ShardId(3), receipt)));
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut]), None, "cut at {cut}");
            let mut mangled = text.clone().into_bytes();
            mangled[cut] ^= 1;
            assert_eq!(parse(&String::from_utf8(mangled).unwrap()), None, "changed at {cut}");
        }
    }
}
