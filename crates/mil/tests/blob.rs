//! The weight blob file. Oracle: the layout as facts and coremltools give it, byte by byte.

use mil::Error;
use mil::blob::{BLOCK_BYTES, DataType, File, Writer};

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sample() -> Vec<u8> {
    let mut writer = Writer::new();
    assert_eq!(writer.add_f16(&[1.0, -2.0, 65504.0]), 64);
    assert_eq!(writer.add_f32(&[0.1]), 192);
    assert_eq!(writer.add_i8(&[-127, 127]), 320);
    writer.finish()
}

#[test]
fn every_byte_is_where_apple_reads_it() {
    let bytes = sample();
    assert_eq!((word(&bytes, 0), word(&bytes, 4)), (3, 2));
    assert!(bytes[8..64].iter().all(|b| *b == 0));
    for (at, code, size) in [(64, 1, 6), (192, 2, 4), (320, 4, 2)] {
        assert_eq!(bytes[at..at + 4], [0xEF, 0xBE, 0xAD, 0xDE]);
        assert_eq!(word(&bytes, at + 4), code);
        assert_eq!(long(&bytes, at + 8), size);
        assert_eq!(long(&bytes, at + 16), at as u64 + 64);
        assert!(bytes[at + 24..at + 64].iter().all(|b| *b == 0));
    }
    assert_eq!(bytes[128..134], [0x00, 0x3C, 0x00, 0xC0, 0xFF, 0x7B]);
    assert_eq!(bytes[256..260], 0.1_f32.to_le_bytes());
    assert_eq!(bytes[384..], [0x81, 0x7F]);
}

#[test]
fn half_precision_rounds_to_nearest_even() {
    let ulp = 2_f32.powi(-10);
    let mut writer = Writer::new();
    writer.add_f16(&[1.0 + ulp / 2.0, 1.0 + 1.5 * ulp, 1.0 + 0.51 * ulp]);
    let bytes = writer.finish();
    let file = File::new("w", &bytes).unwrap();
    assert_eq!(file.blob(64).unwrap().to_floats(), [1.0, 1.0 + 2.0 * ulp, 1.0 + ulp]);
}

#[test]
fn blobs_read_back() {
    let bytes = sample();
    let file = File::new("w", &bytes).unwrap();
    let blobs = file.blobs().unwrap();
    let found: Vec<_> = blobs.iter().map(|b| (b.offset, b.ty, b.len())).collect();
    assert_eq!(found, [(64, DataType::Float16, 3), (192, DataType::Float32, 1), (320, DataType::Int8, 2)]);
    assert_eq!(blobs[0].to_floats(), [1.0, -2.0, 65504.0]);
    assert_eq!(blobs[1].to_floats(), [0.1]);
    assert_eq!(blobs[2].to_ints(), Some(vec![-127, 127]));
    assert_eq!(blobs[0].to_ints(), None);
}

/// ANEForge lets a descriptor follow the payload at once.
#[test]
fn descriptors_need_not_be_aligned() {
    let descriptor = |at: u64, size: u64| {
        let mut bytes = [0_u8; BLOCK_BYTES];
        bytes[0..4].copy_from_slice(&0xDEAD_BEEF_u32.to_le_bytes());
        bytes[4..8].copy_from_slice(&4_u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&size.to_le_bytes());
        bytes[16..24].copy_from_slice(&(at + 64).to_le_bytes());
        bytes
    };
    let mut bytes = vec![0; BLOCK_BYTES];
    bytes[0] = 1;
    bytes[4] = 2;
    bytes.extend(descriptor(64, 3));
    bytes.extend([1, 2, 3]);
    bytes.extend(descriptor(131, 1));
    bytes.push(9);
    let file = File::new("w", &bytes).unwrap();
    let found: Vec<_> = file.blobs().unwrap().iter().map(|b| (b.offset, b.to_ints())).collect();
    assert_eq!(found, [(64, Some(vec![1, 2, 3])), (131, Some(vec![9]))]);
}

#[test]
fn what_is_wrong_is_named() {
    let good = sample();
    let problem = |bytes: &[u8], offset: u64| {
        let error =
            File::new("@model_path/w.bin", bytes).and_then(|f| f.blob(offset).map(|_| ())).unwrap_err();
        let Error::Blob { file, .. } = &error else { panic!("{error}") };
        assert_eq!(file, "@model_path/w.bin");
        error.to_string()
    };
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    for (bytes, offset, expected) in [
        (vec![1; 63], 64, "byte 0: 63 bytes, expected a header of 64"),
        (with(4, 1), 64, "byte 4: version is 1, expected 2"),
        // Payload position, file start, far outside, near the end of the numbers.
        (good.clone(), 128, "byte 128: magic is 0xc0003c00, expected 0xdeadbeef"),
        (good.clone(), 0, "byte 0: magic is 0x00000003"),
        (good.clone(), 1 << 40, "does not fit into 386"),
        (good.clone(), u64::MAX, "does not fit into 386"),
        (with(68, 5), 64, "byte 68: type is 5, expected one of 1 (fp16)"),
        (with(80, 64), 64, "byte 80: payload offset is 64, expected 128"),
        (with(79, 255), 64, "byte 72: payload size is 18374686479671623686"),
        (with(74, 255), 64, "at most the 258 bytes that follow"),
        (with(72, 5), 64, "payload size is 5, expected a multiple of 2 for fp16"),
    ] {
        let found = problem(&bytes, offset);
        assert!(found.contains(expected), "{found} should contain {expected}");
    }
    let stray = with(140, 1);
    let error = File::new("w", &stray).unwrap().blobs().unwrap_err();
    assert!(error.to_string().contains("byte 140"), "{error}");
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    let mut writer = Writer::new();
    writer.add_f32(&[1.0]);
    writer.clone().write_to(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), writer.clone().finish());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let nowhere = folder.path().join("missing").join("weights.bin");
    let error = writer.write_to(&nowhere).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}
