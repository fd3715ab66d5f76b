use super::*;
use proptest::prelude::*;

const QUARANTINE: u64 = 30_000;

/// A world around the addresses: endpoints and host addresses that the test sets.
#[derive(Default)]
struct World {
    endpoints: BTreeMap<IpAddr, EndpointId>,
    host: BTreeSet<IpAddr>,
}

impl World {
    fn holders(&self) -> Holders<'_> {
        Holders { endpoints: &self.endpoints, host: &self.host }
    }
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ipam(ranges: &[&str]) -> Ipam {
    let ranges: Vec<IpNetwork> = ranges.iter().map(|range| net(range)).collect();
    Ipam::new(QUARANTINE, &ranges, false).unwrap()
}

fn pool(ipam: &mut Ipam, subnet: Option<&str>, range: Option<&str>) -> Result<String, Rejected> {
    let request = PoolRequest { family: Family::V4, subnet: subnet.map(net), range: range.map(net) };
    ipam.request_pool(&request, World::default().holders(), Timestamp(0)).map(|pool| pool.id.clone())
}

fn request(ipam: &mut Ipam, pool: &str, fixed: Option<&str>, world: &World, now: u64) -> Result<IpAddr, Rejected> {
    ask(ipam, pool, fixed, Purpose::Endpoint, world, now)
}

fn ask(
    ipam: &mut Ipam,
    pool: &str,
    fixed: Option<&str>,
    purpose: Purpose,
    world: &World,
    now: u64,
) -> Result<IpAddr, Rejected> {
    let (pool, owner) = (pool.to_owned(), "docker".to_owned());
    let request = AddressRequest { pool, address: fixed.map(ip), part: None, owner, purpose, may_claim: true };
    ipam.request_address(&request, true, world.holders(), Timestamp(now))
}

#[test]
fn addresses_come_in_order_and_skip_what_is_set_aside_or_held() {
    let mut ipam = ipam(&["10.9.0.0/29"]);
    let mut world = World::default();
    world.endpoints.insert(ip("10.9.0.3"), EndpointId(1));
    world.host.insert(ip("10.9.0.5"));
    let mut given = Vec::new();
    while let Ok(address) = request(&mut ipam, "node-ipv4", None, &world, 0) {
        given.push(address.to_string());
    }
    assert_eq!(given, ["10.9.0.2", "10.9.0.4", "10.9.0.6"]);
}

#[test]
fn a_part_of_a_pool_gives_its_own_addresses_only() {
    let mut ipam = ipam(&["10.9.0.0/24"]);
    let world = World::default();
    let mut within = |part: &str| {
        let owner = "docker".to_owned();
        let part = Some(net(part));
        let request = AddressRequest {
            pool: "node-ipv4".to_owned(),
            address: None,
            part,
            owner,
            purpose: Purpose::Endpoint,
            may_claim: true,
        };
        ipam.request_address(&request, true, world.holders(), Timestamp(0)).map(|address| address.to_string())
    };
    assert_eq!(within("10.9.0.64/29").unwrap(), "10.9.0.65");
    assert_eq!(within("10.9.0.128/29").unwrap(), "10.9.0.129");
    for last in 66..=70 {
        assert_eq!(within("10.9.0.64/29").unwrap(), format!("10.9.0.{last}"));
    }
    assert_eq!(within("10.9.0.64/29"), Err(Rejected::PoolFull(net("10.9.0.64/29"))));
    assert_eq!(within("10.9.0.128/29").unwrap(), "10.9.0.130");
    for outside in ["10.8.0.0/24", "f00d::/64", "10.9.0.7/32", "255.255.255.255/32"] {
        assert!(matches!(within(outside), Err(Rejected::BadRange { .. })), "{outside}");
    }
}

#[test]
fn a_full_pool_says_so() {
    let mut ipam = ipam(&["10.9.0.0/30"]);
    let world = World::default();
    request(&mut ipam, "node-ipv4", None, &world, 0).unwrap();
    assert_eq!(request(&mut ipam, "node-ipv4", None, &world, 0), Err(Rejected::PoolFull(net("10.9.0.0/30"))));
}

#[test]
fn a_released_address_rests_unless_the_pool_is_full() {
    let mut ipam = ipam(&["10.9.0.0/29"]);
    let world = World::default();
    let first = request(&mut ipam, "node-ipv4", None, &world, 0).unwrap();
    ipam.release_address("node-ipv4", first, world.holders(), Timestamp(1));
    for _ in 0..4 {
        assert_ne!(request(&mut ipam, "node-ipv4", None, &world, 2).unwrap(), first);
    }
    assert_eq!(request(&mut ipam, "node-ipv4", None, &world, 3), Ok(first));
}

#[test]
fn a_released_address_comes_again_after_its_rest() {
    let mut ipam = ipam(&["10.9.0.0/29"]);
    let world = World::default();
    let given: Vec<IpAddr> = (0..5).map(|_| request(&mut ipam, "node-ipv4", None, &world, 0).unwrap()).collect();
    ipam.release_address("node-ipv4", given[2], world.holders(), Timestamp(1));
    ipam.release_address("node-ipv4", given[1], world.holders(), Timestamp(QUARANTINE + 2));
    assert_eq!(request(&mut ipam, "node-ipv4", None, &world, QUARANTINE + 3), Ok(given[2]));
}

#[test]
fn the_same_subnet_is_counted_and_goes_with_the_last() {
    let mut ipam = ipam(&[]);
    let world = World::default();
    let id = pool(&mut ipam, Some("10.1.0.0/24"), None).unwrap();
    assert_eq!(pool(&mut ipam, Some("10.1.0.77/24"), Some("10.1.0.0/24")), Ok(id.clone()));
    ipam.release_pool(&id, world.holders(), Timestamp(1));
    assert!(ipam.pool(&id).is_some());
    ipam.release_pool(&id, world.holders(), Timestamp(1));
    assert!(ipam.pool(&id).is_none());
    ipam.release_pool(&id, world.holders(), Timestamp(1));
}

#[test]
fn a_pool_waits_for_its_last_endpoint() {
    let mut ipam = ipam(&[]);
    let mut world = World::default();
    let id = pool(&mut ipam, Some("10.1.0.0/24"), None).unwrap();
    let address = request(&mut ipam, &id, None, &world, 0).unwrap();
    world.endpoints.insert(address, EndpointId(1));
    ipam.release_pool(&id, world.holders(), Timestamp(1));
    assert!(ipam.pool(&id).is_some());
    world.endpoints.clear();
    ipam.endpoint_left(address, Release::WhenAsked, world.holders(), Timestamp(2));
    assert!(ipam.pool(&id).is_none());
    assert!(ipam.addresses().is_empty());
}

#[test]
fn a_late_pool_takes_in_the_endpoints_that_are_there() {
    let mut ipam = ipam(&[]);
    let mut world = World::default();
    world.endpoints.insert(ip("10.1.0.1"), EndpointId(1));
    let request = PoolRequest { family: Family::V4, subnet: Some(net("10.1.0.0/24")), range: None };
    let gateway = ipam.request_pool(&request, world.holders(), Timestamp(0)).unwrap().gateway;
    assert_eq!(gateway, ip("10.1.0.2"));
    assert!(ipam.addresses().contains_key(&ip("10.1.0.1")));
}

#[test]
fn overlaps_and_other_ranges_are_refused() {
    let mut ipam = ipam(&["10.15.0.0/16"]);
    pool(&mut ipam, Some("10.1.0.0/24"), Some("10.1.0.0/25")).unwrap();
    for (subnet, range) in
        [("10.1.0.0/16", None), ("10.1.0.128/25", None), ("10.15.7.0/24", None), ("10.0.0.0/8", None)]
    {
        let refused = pool(&mut ipam, Some(subnet), range);
        assert!(matches!(refused, Err(Rejected::Overlap { .. })), "{subnet}: {refused:?}");
    }
    assert!(matches!(pool(&mut ipam, Some("10.1.0.0/24"), None), Err(Rejected::OtherRange { .. })));
    assert_eq!(pool(&mut ipam, Some("10.15.0.0/16"), None), Ok("node-ipv4".to_owned()));
}

#[test]
fn a_family_that_is_off_has_no_pool() {
    let refused = ipam(&["10.15.0.0/16"])
        .request_pool(
            &PoolRequest { family: Family::V6, subnet: None, range: None },
            World::default().holders(),
            Timestamp(0),
        )
        .cloned();
    assert_eq!(refused, Err(Rejected::FamilyOff(Family::V6)));
}

#[test]
fn a_pool_of_the_other_family_is_refused() {
    let request = PoolRequest { family: Family::V6, subnet: Some(net("10.1.0.0/24")), range: None };
    assert!(matches!(
        ipam(&[]).request_pool(&request, World::default().holders(), Timestamp(0)),
        Err(Rejected::WrongFamily { .. })
    ));
}

#[test]
fn fixed_addresses_are_checked() {
    let mut ipam = ipam(&[]);
    let mut world = World::default();
    world.host.insert(ip("10.1.0.9"));
    world.endpoints.insert(ip("10.1.0.8"), EndpointId(3));
    let id = pool(&mut ipam, Some("10.1.0.0/24"), Some("10.1.0.128/25")).unwrap();
    // Outside the range but inside the subnet is what a user may name.
    assert_eq!(request(&mut ipam, &id, Some("10.1.0.7"), &world, 0), Ok(ip("10.1.0.7")));
    for (address, wanted) in [
        ("10.1.0.7", "address 10.1.0.7 is taken by docker"),
        ("10.1.0.8", "address 10.1.0.8 is taken by endpoint 3"),
        ("10.1.0.9", "address 10.1.0.9 cannot be given out: it is an address of the host itself"),
        ("10.1.0.0", "address 10.1.0.0 cannot be given out: it is the network address of its subnet"),
        ("10.1.0.1", "address 10.1.0.1 cannot be given out: it is the gateway of its subnet"),
        ("10.1.0.255", "address 10.1.0.255 cannot be given out: it is the broadcast address of its subnet"),
        ("10.1.1.7", "address 10.1.1.7 is not in subnet 10.1.0.0/24"),
    ] {
        assert_eq!(request(&mut ipam, &id, Some(address), &world, 0).unwrap_err().to_string(), wanted);
    }
}

#[test]
fn the_first_network_chooses_the_gateway_of_its_pool() {
    let mut ipam = ipam(&[]);
    let world = World::default();
    let id = pool(&mut ipam, Some("10.1.0.0/24"), None).unwrap();
    assert_eq!(ask(&mut ipam, &id, None, Purpose::Gateway, &world, 0), Ok(ip("10.1.0.1")));
    assert_eq!(ask(&mut ipam, &id, Some("10.1.0.254"), Purpose::Gateway, &world, 0), Ok(ip("10.1.0.254")));
    assert_eq!(ipam.pool(&id).unwrap().gateway, ip("10.1.0.254"));
    assert_eq!(request(&mut ipam, &id, Some("10.1.0.1"), &world, 0), Ok(ip("10.1.0.1")));
    // The second one gets an address of its own.
    pool(&mut ipam, Some("10.1.0.0/24"), None).unwrap();
    assert_eq!(ask(&mut ipam, &id, Some("10.1.0.9"), Purpose::Gateway, &world, 0), Ok(ip("10.1.0.9")));
    assert_eq!(ipam.pool(&id).unwrap().gateway, ip("10.1.0.254"));
    ipam.release_address(&id, ip("10.1.0.254"), world.holders(), Timestamp(1));
    assert_eq!(ipam.pool(&id).unwrap().gateway, ip("10.1.0.254"));
}

#[test]
fn each_network_on_the_nodes_pool_has_a_gateway_of_its_own() {
    let mut ipam = ipam(&["10.15.0.0/16"]);
    let world = World::default();
    let gateways: Vec<String> =
        (0..2).map(|_| ask(&mut ipam, "node-ipv4", None, Purpose::Gateway, &world, 0).unwrap().to_string()).collect();
    assert_eq!(gateways, ["10.15.0.2", "10.15.0.3"]);
    ipam.release_address("node-ipv4", ip("10.15.0.2"), world.holders(), Timestamp(0));
    assert!(!ipam.addresses().contains_key(&ip("10.15.0.2")));
}

#[test]
fn the_address_of_a_living_endpoint_is_released_with_it() {
    let mut ipam = ipam(&["10.15.0.0/16"]);
    let mut world = World::default();
    let address = request(&mut ipam, "node-ipv4", None, &world, 0).unwrap();
    world.endpoints.insert(address, EndpointId(1));
    ipam.endpoint_took(address, Timestamp(0));
    ipam.release_address("node-ipv4", address, world.holders(), Timestamp(1));
    assert!(ipam.addresses().contains_key(&address));
    world.endpoints.clear();
    ipam.endpoint_left(address, Release::WhenAsked, world.holders(), Timestamp(2));
    assert!(ipam.addresses().is_empty());
}

#[test]
fn only_old_untaken_addresses_of_endpoints_are_freed() {
    let mut ipam = ipam(&["10.15.0.0/16"]);
    let mut world = World::default();
    let taken = request(&mut ipam, "node-ipv4", None, &world, 0).unwrap();
    let old = request(&mut ipam, "node-ipv4", None, &world, 0).unwrap();
    let young = request(&mut ipam, "node-ipv4", None, &world, 5).unwrap();
    let gateway = ask(&mut ipam, "node-ipv4", None, Purpose::Gateway, &world, 0).unwrap();
    world.endpoints.insert(taken, EndpointId(1));
    assert_eq!(ipam.free_untaken(Timestamp(5), world.holders(), Timestamp(20)), [old]);
    let left: Vec<&IpAddr> = ipam.addresses().keys().collect();
    assert_eq!(left, [&taken, &young, &gateway]);
}

#[test]
fn a_pool_that_no_network_of_docker_uses_goes() {
    let mut ipam = ipam(&["10.15.0.0/16"]);
    let world = World::default();
    pool(&mut ipam, Some("10.1.0.0/24"), None).unwrap();
    pool(&mut ipam, Some("10.2.0.0/24"), None).unwrap();
    pool(&mut ipam, Some("10.2.0.0/24"), None).unwrap();
    ask(&mut ipam, "node-ipv4", None, Purpose::Gateway, &world, 0).unwrap();
    let uses = |pool: &Pool| u32::from(pool.id == "10.2.0.0/24");
    ipam.keep_only_used(uses, &BTreeSet::new(), Timestamp(1), world.holders(), Timestamp(20));
    let left: Vec<(&str, u32)> = ipam.pools().map(|pool| (pool.id.as_str(), pool.references)).collect();
    assert_eq!(left, [("10.2.0.0/24", 1), ("node-ipv4", 0)]);
    assert!(ipam.addresses().is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Any,
    Fixed(u8),
    Gateway(u8),
    Release(u8),
    Take(u8),
    Leave(u8),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Any),
        2 => (0u8..70).prop_map(Step::Fixed),
        1 => (0u8..70).prop_map(Step::Gateway),
        3 => (0u8..70).prop_map(Step::Release),
        2 => (0u8..70).prop_map(Step::Take),
        2 => (0u8..70).prop_map(Step::Leave),
        1 => any::<u16>().prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// A pool of 64 addresses with a range of 32, and a model of it: the set of those that are held.
    #[test]
    fn no_address_is_given_twice_or_from_outside(steps in steps()) {
        let mut ipam = ipam(&[]);
        let mut world = World::default();
        let id = pool(&mut ipam, Some("10.1.0.0/26"), Some("10.1.0.16/28")).unwrap();
        let range = net("10.1.0.16/28");
        let nth = |n: u8| IpAddr::from([10, 1, 0, n]);
        let mut held: BTreeSet<IpAddr> = BTreeSet::new();
        let mut now = 0;
        for step in steps {
            let gateway = ipam.pool(&id).unwrap().gateway;
            match step {
                Step::Wait(ms) => now += u64::from(ms),
                Step::Any => match request(&mut ipam, &id, None, &world, now) {
                    Ok(address) => {
                        prop_assert!(range.contains(address), "{address} is outside the range");
                        prop_assert!(address != gateway && held.insert(address), "{address} twice");
                    }
                    Err(refused) => {
                        prop_assert_eq!(refused, Rejected::PoolFull(net("10.1.0.0/26")));
                        let free = range.iter().filter(|a| !held.contains(a) && *a != gateway).count();
                        prop_assert_eq!(free, 0, "refused although addresses are free");
                    }
                },
                Step::Fixed(n) => {
                    let usable = (1..63).contains(&n) && nth(n) != gateway && !held.contains(&nth(n));
                    let given = request(&mut ipam, &id, Some(&nth(n).to_string()), &world, now);
                    prop_assert_eq!(given.is_ok(), usable, "{:?}", given);
                    held.extend(given);
                }
                Step::Gateway(n) => {
                    let usable = (1..63).contains(&n) && !held.contains(&nth(n));
                    let given = ask(&mut ipam, &id, Some(&nth(n).to_string()), Purpose::Gateway, &world, now);
                    prop_assert_eq!(given.is_ok(), usable, "{:?}", given);
                    held.extend(given.ok().filter(|address| ipam.addresses().contains_key(address)));
                }
                Step::Release(n) => {
                    ipam.release_address(&id, nth(n), world.holders(), Timestamp(now));
                    if !world.endpoints.contains_key(&nth(n)) {
                        held.remove(&nth(n));
                    }
                }
                Step::Take(n) => {
                    let endpoint_like = |a: &Allocation| a.purpose != Purpose::Gateway;
                    if ipam.addresses().get(&nth(n)).is_some_and(endpoint_like) {
                        world.endpoints.insert(nth(n), EndpointId(u16::from(n)));
                        ipam.endpoint_took(nth(n), Timestamp(now));
                    }
                }
                Step::Leave(n) => {
                    if world.endpoints.remove(&nth(n)).is_some() {
                        ipam.endpoint_left(nth(n), Release::Now, world.holders(), Timestamp(now));
                        held.remove(&nth(n));
                    }
                }
            }
            let known: BTreeSet<IpAddr> = ipam.addresses().keys().copied().collect();
            prop_assert_eq!(&known, &held);
            let pool = ipam.pool(&id).unwrap();
            prop_assert!(held.iter().all(|address| pool.set_aside(*address).is_none() && pool.subnet.contains(*address)));
        }
    }

    #[test]
    fn what_is_released_can_be_had_again(count in 1usize..12, which in any::<prop::sample::Index>()) {
        let mut ipam = ipam(&["10.9.0.0/28"]);
        let world = World::default();
        let given: Vec<IpAddr> = (0..count).map(|_| request(&mut ipam, "node-ipv4", None, &world, 0).unwrap()).collect();
        let again = *which.get(&given);
        ipam.release_address("node-ipv4", again, world.holders(), Timestamp(1));
        prop_assert_eq!(request(&mut ipam, "node-ipv4", Some(&again.to_string()), &world, 1), Ok(again));
    }
}
