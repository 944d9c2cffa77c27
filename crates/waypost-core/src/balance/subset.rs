//! Subset of a large service for one client, by rendezvous hashing.
//!
//! Each client ranks the nodes by a hash of its own seed and the node's id, and takes the best.
//! Adding or removing one node changes at most one connection of each client (gRFC A68).

/// Returns the rank of the node `id` for the client with this seed. The nodes with the lowest ranks
/// are the client's subset. The hash is FNV-1a over the bytes, finished by the mixer of SplitMix64,
/// so that close seeds rank differently.
pub fn rank(seed: u64, id: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in id.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_many_clients_cover_the_nodes_evenly() {
        let ids: Vec<_> = (0..100).map(|i| format!("greeter-{i}")).collect();
        let mut load = vec![0; ids.len()];
        for seed in 0..1_000 {
            let mut ranked: Vec<_> = (0..ids.len()).collect();
            ranked.sort_by_key(|&i| rank(seed, &ids[i]));
            for &i in &ranked[..20] {
                load[i] += 1;
            }
        }
        // If the distribution is even, the mean is 200 and the standard deviation 12.6. One of 100
        // nodes exceeds five deviations once in 17 000 seeds; these seeds are fixed.
        assert!(load.iter().all(|n| (137..=263).contains(n)), "{load:?}");
    }
}
