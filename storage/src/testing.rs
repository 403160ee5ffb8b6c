//! What the tests of this crate share: seeded damage, and bytes frozen in `testdata/`.

use std::path::PathBuf;

use crate::random::Random;

/// Damaged copies of good bytes that [`assert_survives_mutation`] tries.
const MUTATIONS: u64 = 4_000;

/// Hands damaged copies of `good` to a decoder, which must not panic. A failure prints the seed of its damage.
pub(crate) fn assert_survives_mutation(good: &[u8], mut decode: impl FnMut(&[u8])) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the damage of seed {} breaks it", self.0);
            }
        }
    }
    for seed in 0..MUTATIONS {
        let seed = Seed(seed);
        let mut random = Random::new(seed.0);
        let mut bytes = good.to_vec();
        for _ in 0..=random.below(4) {
            damage(&mut bytes, &mut random);
        }
        decode(&bytes);
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let position = random.index(bytes.len());
    match random.below(6) {
        0 => bytes.truncate(position),
        1 => bytes.extend((0..random.index(40)).map(|_| random.next() as u8)),
        2 if position < bytes.len() => {
            bytes.remove(position);
        }
        3 => {
            // Boundary values, as a length or a count would have them.
            let value = [0u8, 0x7f, 0x80, 0xff][random.index(4)];
            let end = bytes.len().min(position + 1 + random.index(8));
            bytes[position..end].fill(value);
        }
        4 if position < bytes.len() => bytes[position] = random.next() as u8,
        _ if position < bytes.len() => bytes[position] ^= 1 << random.index(8),
        _ => {}
    }
}

pub(crate) fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// Compares an encoding with the bytes frozen in `testdata/`: a difference means that data on people's disks can no
/// longer be read. A new format gets a new file, written with `MILLSTREAM_FREEZE=1`.
pub(crate) fn frozen(name: &str, encoded: &[u8]) {
    let path = testdata(name);
    if std::env::var_os("MILLSTREAM_FREEZE").is_some() && !path.exists() {
        std::fs::write(&path, encoded).expect("testdata is writable");
    }
    let expected = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(encoded, expected, "{name} is encoded differently now");
}
