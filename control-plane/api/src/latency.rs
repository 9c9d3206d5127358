//! Latency histograms on the wire: HdrHistogram's V2 format, uncompressed.
//!
//! hdrhistogram's own serialiser comes with a decompressor and a second copy of a parser library, for a format
//! of forty header bytes and a list of counts; and whoever decodes here also has to bound what a peer can make
//! it allocate. The layout is that of [HdrHistogram's `encodeIntoByteBuffer`][spec]: every count of the array in
//! order, ZigZag LEB128 (at most nine bytes), a run of two or more zeros as its negative length.
//!
//! [spec]: https://github.com/HdrHistogram/HdrHistogram/blob/master/src/main/java/org/HdrHistogram/AbstractHistogram.java

use hdrhistogram::Histogram;

/// Four bytes in front of every V2 histogram: format 3, word size "varint".
const COOKIE: u32 = 0x1c84_9313;
/// Cookie, payload length, index offset, digits (4 bytes each); lowest, highest, ratio (8 bytes each).
const HEADER_BYTES: usize = 40;
/// More than a day in microseconds: no latency is longer, and a peer cannot ask for a bigger table.
const HIGHEST_TRACKABLE: u64 = 1 << 37;

/// Why bytes are not a latency histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LatencyError {
    /// Less than a header, or less than the header says.
    #[error("the histogram is cut off")]
    Truncated,
    /// Another format, a compressed one, or one with an index offset or ratio.
    #[error("the histogram is not in HdrHistogram's V2 format")]
    Format,
    /// Digits or bounds outside what a latency needs.
    #[error("the histogram's range or precision is out of bounds")]
    Bounds,
    /// More counts than the range has places for, or a count that cannot be.
    #[error("the histogram's counts do not fit its range")]
    Counts,
}

/// Writes a histogram.
pub fn encode(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut zeros = 0_i64;
    let mut value = 0;
    while !histogram.is_empty() && value <= histogram.max() {
        match histogram.count_at(value) {
            0 => zeros += 1,
            count => {
                put_zeros(&mut payload, zeros);
                zeros = 0;
                put_varint(&mut payload, zigzag(i64::try_from(count).unwrap_or(i64::MAX)));
            }
        }
        value = histogram.next_non_equivalent(value);
    }
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend(COOKIE.to_be_bytes());
    out.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(0_u32.to_be_bytes());
    out.extend(u32::from(histogram.sigfig()).to_be_bytes());
    out.extend(histogram.low().to_be_bytes());
    out.extend(histogram.high().to_be_bytes());
    out.extend(1.0_f64.to_be_bytes());
    out.extend(payload);
    out
}

/// Reads a histogram.
///
/// # Errors
/// Anything that [`encode`] would not write, or whose table would be larger than a latency's.
pub fn decode(bytes: &[u8]) -> Result<Histogram<u64>, LatencyError> {
    let (header, payload) = bytes.split_at_checked(HEADER_BYTES).ok_or(LatencyError::Truncated)?;
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let ratio = f64::from_bits(long(32));
    if word(0) != COOKIE || word(8) != 0 || ratio.to_bits() != 1.0_f64.to_bits() {
        return Err(LatencyError::Format);
    }
    if payload.len() != word(4) as usize {
        return Err(LatencyError::Truncated);
    }
    let digits = u8::try_from(word(12)).ok().filter(|d| *d <= 3).ok_or(LatencyError::Bounds)?;
    let (low, high) = (long(16), long(24));
    if high > HIGHEST_TRACKABLE {
        return Err(LatencyError::Bounds);
    }
    let mut histogram = Histogram::new_with_bounds(low, high, digits).map_err(|_| LatencyError::Bounds)?;
    fill(&mut histogram, payload)?;
    Ok(histogram)
}

fn fill(histogram: &mut Histogram<u64>, mut payload: &[u8]) -> Result<(), LatencyError> {
    let places = histogram.distinct_values();
    let (mut place, mut value) = (0_usize, 0_u64);
    while !payload.is_empty() {
        let entry = unzigzag(take_varint(&mut payload)?);
        let (skip, count) = if entry < 0 { (entry.unsigned_abs(), 0) } else { (1, entry.unsigned_abs()) };
        let skip = usize::try_from(skip).map_err(|_| LatencyError::Counts)?;
        if place.checked_add(skip).is_none_or(|end| end > places) {
            return Err(LatencyError::Counts);
        }
        if count > 0 {
            histogram.record_n(value, count).map_err(|_| LatencyError::Counts)?;
        }
        for _ in 0..skip {
            value = histogram.next_non_equivalent(value);
        }
        place += skip;
    }
    Ok(())
}

fn put_zeros(out: &mut Vec<u8>, zeros: i64) {
    match zeros {
        0 => {}
        1 => put_varint(out, 0),
        run => put_varint(out, zigzag(-run)),
    }
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// LEB128 whose ninth byte holds eight bits, so that 64 bits take nine bytes and not ten.
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    for _ in 0..8 {
        if number < 0x80 {
            out.push(number as u8);
            return;
        }
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, LatencyError> {
    let mut number = 0;
    for index in 0..9 {
        let (&byte, rest) = bytes.split_first().ok_or(LatencyError::Truncated)?;
        *bytes = rest;
        if index == 8 {
            return Ok(number | u64::from(byte) << 56);
        }
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            break;
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(values: &[(u64, u64)]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 2).unwrap();
        for &(value, count) in values {
            histogram.record_n(value, count).unwrap();
        }
        histogram
    }

    #[test]
    fn write_then_read_is_identity() {
        for values in [
            &[][..],
            &[(0, 1)],
            &[(1, 1), (3, 7), (4, 9)],
            &[(100, 1_000_000), (101, 2), (250_000, 3), (3_600_000_000, 1)],
            &[(5, u64::from(u32::MAX) * 7)],
        ] {
            let histogram = latencies(values);
            let read = decode(&encode(&histogram)).unwrap();
            assert_eq!(read, histogram, "{values:?}");
            assert_eq!(read.len(), histogram.len(), "{values:?}");
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        // Zero at 0, one at 1, zeros at 2 and 3, sixty-four at 4: as other implementations write it.
        let bytes = encode(&latencies(&[(1, 1), (4, 64)]));
        assert_eq!(bytes[..4], [0x1c, 0x84, 0x93, 0x13]);
        assert_eq!(bytes[HEADER_BYTES..], [0, 2, 3, 0x80, 0x01]);
    }

    #[test]
    fn an_auto_resized_histogram_travels_too() {
        let mut histogram = Histogram::<u64>::new(2).unwrap();
        histogram.record(77_777).unwrap();
        let read = decode(&encode(&histogram)).unwrap();
        assert_eq!((read.len(), read.max()), (1, histogram.max()));
    }

    #[test]
    fn hostile_bytes_are_refused_and_never_allocate_much() {
        let good = encode(&latencies(&[(10, 1), (500, 2)]));
        assert_eq!(decode(&[]).unwrap_err(), LatencyError::Truncated);
        assert_eq!(decode(&good[..good.len() - 1]).unwrap_err(), LatencyError::Truncated);
        let changed = |at: usize, with: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            decode(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, &[0]), LatencyError::Format);
        assert_eq!(changed(8, &[1]), LatencyError::Format);
        assert_eq!(changed(12, &[0, 0, 0, 5]), LatencyError::Bounds);
        assert_eq!(changed(16, &[0; 8]), LatencyError::Bounds);
        assert_eq!(changed(24, &[0xff; 8]), LatencyError::Bounds);
        // A run of zeros far longer than the table.
        let mut long = good[..HEADER_BYTES].to_vec();
        put_varint(&mut long, zigzag(i64::MIN + 1));
        let length = (long.len() - HEADER_BYTES) as u32;
        long[4..8].copy_from_slice(&length.to_be_bytes());
        assert_eq!(decode(&long).unwrap_err(), LatencyError::Counts);
    }

    #[test]
    fn varints_of_every_length_come_back() {
        for number in (0..64).map(|bit| 1_u64 << bit).chain([0, u64::MAX, i64::MAX as u64]) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert!(bytes.len() <= 9);
            let mut rest = &bytes[..];
            assert_eq!(take_varint(&mut rest), Ok(number));
            assert!(rest.is_empty());
        }
    }
}
