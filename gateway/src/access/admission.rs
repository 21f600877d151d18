//! Limits per client: connections, streams and published events of one address or subject, and the
//! rate of new connections of one address and in total.
//!
//! Limits are checked once per connection, stream or publish request, never per delivered event. An
//! open connection or stream holds a [`Lease`], which decrements the count when it is dropped. So
//! the tables are bounded by what is open. The rates of an address with nothing open are kept until
//! its buckets are full again, about a second.
//!
//! A client that is not limited by address (`ClientAddr::limited`) and has no subject is not even
//! looked up.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::access::client::ClientAddr;
use crate::access::cluster_streams::ClusterLease;
use crate::config::LimitsConfig;
use crate::metrics::Rejection;

/// Idle accounts are swept when the table has twice as many entries as after the last sweep, and at
/// least this many.
const FEW_ACCOUNTS: usize = 1024;
const SECOND: u64 = 1_000_000_000;

/// All counters of this process.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: LimitsConfig,
    began: Instant,
    books: Mutex<Books>,
    /// When the last warning about an address at its limit was logged: seconds since `began` plus
    /// 1, or 0 for never.
    told: AtomicU64,
}

#[derive(Debug)]
struct Books {
    accounts: HashMap<Who, Account>,
    /// The number of accounts at which the next sweep for idle ones happens.
    sweep_at: usize,
    /// New connections of all limited addresses together.
    arrivals: Bucket,
}

/// Whose account it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Address(IpAddr),
    Subject(Arc<str>),
}

#[derive(Debug, Default)]
struct Account {
    connections: u32,
    streams: u32,
    arrivals: Bucket,
    published: Bucket,
}

/// A token bucket with the capacity of one second, stored as the time (in ns since
/// `Admission::began`) at which it will be full again: GCRA (ITU-T I.371).
#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    full_at: u64,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// `limits.connections_per_address`.
    AddressConnections,
    /// `limits.connection_rate_per_address`.
    AddressConnectionRate,
    /// `limits.connection_rate`.
    ConnectionRate,
    /// `limits.streams_per_address`.
    AddressStreams,
    /// `limits.streams_per_subject`, or the grant's own limit.
    SubjectStreams,
    /// `limits.cluster_streams_per_subject`, or the grant's own limit.
    ClusterStreams,
    /// `limits.publish_rate`, or the grant's own limit.
    PublishRate,
}

/// A limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", .over.words(*.limit))]
pub struct Refused {
    /// Which limit.
    pub over: Over,
    /// The limit's value.
    pub limit: u32,
    /// How long until there is room again. Known for rates only.
    pub after: Option<Duration>,
}

/// One counted connection or stream. Dropping it decrements the count.
#[derive(Debug)]
pub(crate) struct Lease {
    admission: Arc<Admission>,
    who: Who,
    of: fn(&mut Account) -> &mut u32,
}

/// The leases of an open stream: for its client's address, for its subject, and for its subject on
/// all gateways together.
#[derive(Debug, Default)]
pub(crate) struct StreamLease {
    address: Option<Lease>,
    subject: Option<Lease>,
    cluster: Option<ClusterLease>,
}

impl StreamLease {
    /// Whether nothing was counted, so that dropping it has no effect.
    pub(crate) fn is_empty(&self) -> bool {
        self.address.is_none() && self.subject.is_none() && self.cluster.is_none()
    }

    /// Adds the lease that counts the stream on all gateways together.
    pub(crate) fn with(mut self, cluster: Option<ClusterLease>) -> Self {
        self.cluster = cluster;
        self
    }
}

impl Over {
    /// The reason as the metrics say it.
    pub fn reason(self) -> Rejection {
        match self {
            Over::AddressConnections => Rejection::AddressConnections,
            Over::AddressConnectionRate => Rejection::AddressConnectionRate,
            Over::ConnectionRate => Rejection::ConnectionRate,
            Over::AddressStreams => Rejection::AddressStreams,
            Over::SubjectStreams => Rejection::SubjectStreams,
            Over::ClusterStreams => Rejection::ClusterStreams,
            Over::PublishRate => Rejection::PublishRate,
        }
    }

    fn words(self, limit: u32) -> String {
        match self {
            Over::AddressConnections => format!("an address has at most {limit} connections open"),
            Over::AddressConnectionRate => {
                format!("an address opens at most {limit} connections a second")
            }
            Over::ConnectionRate => format!("at most {limit} connections are opened a second"),
            Over::AddressStreams => format!("an address has at most {limit} streams open"),
            Over::SubjectStreams => format!("a subject has at most {limit} streams open"),
            Over::ClusterStreams => {
                format!("a subject has at most {limit} streams open on all gateways together")
            }
            Over::PublishRate => format!("at most {limit} events a second are taken from you"),
        }
    }
}

impl Admission {
    /// All counts start at zero.
    pub(crate) fn new(limits: LimitsConfig) -> Arc<Self> {
        let books =
            Books { accounts: HashMap::new(), sweep_at: FEW_ACCOUNTS, arrivals: Bucket::default() };
        let (books, told) = (Mutex::new(books), AtomicU64::new(0));
        Arc::new(Admission { limits, began: Instant::now(), books, told })
    }

    /// Warns that an address is at its limit, once a minute at most. The address may belong to a
    /// proxy missing from `server.trusted_proxies`; then all its clients share one limit.
    fn tell(&self, client: ClientAddr, refused: &Refused) {
        let second = self.began.elapsed().as_secs() + 1;
        let last = self.told.load(Ordering::Relaxed);
        let due = last == 0 || second >= last + 60;
        if !due
            || self
                .told
                .compare_exchange(last, second, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        tracing::warn!(
            client.addr = %client.ip, limit.reason = refused.over.reason().as_str(), limit.value = refused.limit,
            "a client's address has reached a limit; if it is a proxy's, name it in server.trusted_proxies"
        );
    }

    /// Counts an accepted connection. Peers that are not limited by address do not count towards
    /// `limits.connection_rate` either: a flood from outside must not shut out the operator's own
    /// probes and proxies.
    pub(crate) fn connection(self: &Arc<Self>, peer: ClientAddr) -> Result<Option<Lease>, Refused> {
        self.connection_at(peer, self.now()).inspect_err(|refused| {
            if refused.over != Over::ConnectionRate {
                self.tell(peer, refused);
            }
        })
    }

    fn connection_at(
        self: &Arc<Self>,
        peer: ClientAddr,
        now: u64,
    ) -> Result<Option<Lease>, Refused> {
        let limits = &self.limits;
        let each = [
            limits.connections_per_address,
            limits.connection_rate_per_address,
            limits.connection_rate,
        ];
        if !peer.limited || each == [0; 3] {
            return Ok(None);
        }
        let who = Who::address(peer.ip);
        let mut books = self.books();
        let known = books.accounts.get(&who);
        let (open, mut arrivals) =
            known.map_or((0, Bucket::default()), |account| (account.connections, account.arrivals));
        within(open, limits.connections_per_address, Over::AddressConnections)?;
        let rate = limits.connection_rate_per_address;
        arrivals.take(1, rate, now, Over::AddressConnectionRate)?;
        // Checked last: a connection refused for its address must not use up the shared rate.
        books.arrivals.take(1, limits.connection_rate, now, Over::ConnectionRate)?;
        let account = books.account(&who, now);
        account.arrivals = arrivals;
        account.connections += 1;
        drop(books);
        Ok(Some(self.lease(who, |account| &mut account.connections)))
    }

    /// Counts a stream of this client. `own_limit` is the grant's limit for its subject and
    /// replaces the configured one; 0 is no limit.
    pub(crate) fn stream(
        self: &Arc<Self>,
        client: ClientAddr,
        subject: Option<&str>,
        own_limit: Option<u32>,
    ) -> Result<StreamLease, Refused> {
        let address = (client.limited && self.limits.streams_per_address > 0)
            .then(|| Who::address(client.ip));
        let most = own_limit.unwrap_or(self.limits.streams_per_subject);
        let subject = subject.filter(|_| most > 0).map(|subject| Who::Subject(subject.into()));
        let address = match address {
            Some(who) => Some(
                self.one_more_stream(who, self.limits.streams_per_address, Over::AddressStreams)
                    .inspect_err(|refused| self.tell(client, refused))?,
            ),
            None => None,
        };
        // If this fails, dropping `address` gives its count back.
        let subject =
            subject.map(|who| self.one_more_stream(who, most, Over::SubjectStreams)).transpose()?;
        Ok(StreamLease { address, subject, cluster: None })
    }

    fn one_more_stream(
        self: &Arc<Self>,
        who: Who,
        most: u32,
        over: Over,
    ) -> Result<Lease, Refused> {
        let now = self.now();
        let mut books = self.books();
        if let Some(account) = books.accounts.get(&who) {
            within(account.streams, most, over)?;
        }
        books.account(&who, now).streams += 1;
        drop(books);
        Ok(self.lease(who, |account| &mut account.streams))
    }

    /// Takes `events` from the rate of the subject, or of the client's address if there is no
    /// subject. A full bucket takes a batch larger than its capacity, and the client then waits
    /// until the excess is paid off. `own_limit` replaces `limits.publish_rate`; 0 is no limit.
    pub(crate) fn publish(
        &self,
        client: ClientAddr,
        subject: Option<&str>,
        own_limit: Option<u32>,
        events: usize,
    ) -> Result<(), Refused> {
        self.publish_at(client, subject, own_limit, events, self.now())
    }

    fn publish_at(
        &self,
        client: ClientAddr,
        subject: Option<&str>,
        own_limit: Option<u32>,
        events: usize,
        now: u64,
    ) -> Result<(), Refused> {
        let rate = own_limit.unwrap_or(self.limits.publish_rate);
        let who = match subject {
            _ if rate == 0 => return Ok(()),
            Some(subject) => Who::Subject(subject.into()),
            None if client.limited => Who::address(client.ip),
            None => return Ok(()),
        };
        let mut books = self.books();
        books.account(&who, now).published.take(events as u64, rate, now, Over::PublishRate)
    }

    fn lease(self: &Arc<Self>, who: Who, of: fn(&mut Account) -> &mut u32) -> Lease {
        Lease { admission: self.clone(), who, of }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.admission.now();
        let mut books = self.admission.books();
        let Some(account) = books.accounts.get_mut(&self.who) else { return };
        let count = (self.of)(account);
        *count = count.saturating_sub(1);
        if account.is_idle(now) {
            books.accounts.remove(&self.who);
        }
    }
}

impl Books {
    /// Gets or creates an account. Sweeps idle accounts when the table has grown to `sweep_at`.
    fn account(&mut self, who: &Who, now: u64) -> &mut Account {
        if self.accounts.len() >= self.sweep_at {
            self.accounts.retain(|_, account| !account.is_idle(now));
            self.sweep_at = (2 * self.accounts.len()).max(FEW_ACCOUNTS);
        }
        self.accounts.entry(who.clone()).or_default()
    }
}

impl Account {
    /// Whether the account equals a new one, so that it can be dropped.
    fn is_idle(&self, now: u64) -> bool {
        let full = self.arrivals.full_at.max(self.published.full_at) <= now;
        full && self.connections == 0 && self.streams == 0
    }
}

impl Who {
    /// An IPv6 client counts by its /64: it usually owns the whole network and can change its
    /// address at will.
    fn address(ip: IpAddr) -> Self {
        Who::Address(match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

impl Bucket {
    /// Takes `n` from a bucket that refills at `rate` a second; a rate of 0 is no limit. An `n`
    /// beyond the capacity is taken if the bucket is full, and leaves it overdrawn.
    fn take(&mut self, n: u64, rate: u32, now: u64, over: Over) -> Result<(), Refused> {
        if rate == 0 {
            return Ok(());
        }
        let each = SECOND / u64::from(rate);
        let full_at = self.full_at.max(now);
        let wanted = full_at + n.min(u64::from(rate)) * each;
        let after = wanted.saturating_sub(now + SECOND);
        if after > 0 {
            let after = Some(Duration::from_nanos(after));
            return Err(Refused { over, limit: rate, after });
        }
        self.full_at = full_at.saturating_add(n.saturating_mul(each));
        Ok(())
    }
}

/// Whether one more may open when `open` already are; a `most` of 0 is no limit.
fn within(open: u32, most: u32, over: Over) -> Result<(), Refused> {
    match most == 0 || open < most {
        true => Ok(()),
        false => Err(Refused { over, limit: most, after: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn admission(change: impl FnOnce(&mut LimitsConfig)) -> Arc<Admission> {
        let mut limits = LimitsConfig {
            connections_per_address: 0,
            connection_rate_per_address: 0,
            connection_rate: 0,
            streams_per_address: 0,
            streams_per_subject: 0,
            cluster_streams_per_subject: 0,
            publish_rate: 0,
        };
        change(&mut limits);
        Admission::new(limits)
    }

    fn client(ip: &str) -> ClientAddr {
        ClientAddr::told(ip.parse().unwrap())
    }

    fn own() -> ClientAddr {
        ClientAddr { ip: "127.0.0.1".parse().unwrap(), limited: false }
    }

    fn accounts(admission: &Admission) -> usize {
        admission.books().accounts.len()
    }

    fn over<T: std::fmt::Debug>(result: Result<T, Refused>) -> Over {
        result.unwrap_err().over
    }

    #[test]
    fn a_connection_that_closes_gives_back() {
        let admission = admission(|limits| limits.connections_per_address = 2);
        let (a, b) = (client("192.0.2.1"), client("192.0.2.2"));
        let first = admission.connection(a).unwrap();
        let second = admission.connection(a).unwrap();
        assert_eq!(over(admission.connection(a)), Over::AddressConnections);
        let other = admission.connection(b).unwrap();
        drop(first);
        let third = admission.connection(a).unwrap();
        assert_eq!(over(admission.connection(a)), Over::AddressConnections);
        drop((second, third, other));
        assert_eq!(accounts(&admission), 0, "nothing is kept of whoever has nothing");
    }

    #[test]
    fn an_ipv6_client_is_its_network_of_64_bits() {
        let admission = admission(|limits| limits.streams_per_address = 1);
        let _first = admission.stream(client("2001:db8::1"), None, None).unwrap();
        let same = admission.stream(client("2001:db8::ffff:1"), None, None);
        assert_eq!(over(same), Over::AddressStreams);
        admission.stream(client("2001:db8:0:1::1"), None, None).unwrap();
        let _v4 = admission.stream(client("::ffff:192.0.2.1"), None, None).unwrap();
        assert_eq!(over(admission.stream(client("192.0.2.1"), None, None)), Over::AddressStreams);
    }

    #[test]
    fn streams_are_counted_for_the_address_and_for_the_subject() {
        let admission = admission(|limits| {
            limits.streams_per_address = 2;
            limits.streams_per_subject = 1;
        });
        let (a, b) = (client("192.0.2.1"), client("192.0.2.2"));
        let ann = admission.stream(a, Some("ann"), None).unwrap();
        assert_eq!(over(admission.stream(b, Some("ann"), None)), Over::SubjectStreams);
        // The stream refused for the subject did not stay counted for the address.
        let _bob = admission.stream(b, Some("bob"), None).unwrap();
        let _cid = admission.stream(b, Some("cid"), None).unwrap();
        assert_eq!(over(admission.stream(b, None, None)), Over::AddressStreams);
        // A grant's own limit replaces the configured one, whether it is higher or lower.
        let _more = admission.stream(own(), Some("ann"), Some(2)).unwrap();
        assert_eq!(over(admission.stream(own(), Some("ann"), Some(2))), Over::SubjectStreams);
        assert_eq!(over(admission.stream(own(), Some("ann"), Some(1))), Over::SubjectStreams);
        let _any = admission.stream(own(), Some("ann"), Some(0)).unwrap();
        drop(ann);
        admission.stream(own(), Some("ann"), Some(2)).unwrap();
    }

    #[test]
    fn whoever_is_not_limited_costs_nothing() {
        let admission = admission(|limits| {
            limits.connections_per_address = 1;
            limits.connection_rate_per_address = 1;
            limits.connection_rate = 1;
            limits.streams_per_address = 1;
            limits.publish_rate = 1;
        });
        for _ in 0..5 {
            assert!(admission.connection(own()).unwrap().is_none());
            assert!(admission.stream(own(), None, None).unwrap().is_empty());
            admission.publish(own(), None, None, 1000).unwrap();
        }
        assert_eq!(accounts(&admission), 0);
        // It does not use up the shared rate either.
        admission.connection(client("192.0.2.1")).unwrap();
    }

    #[test]
    fn new_connections_are_bounded_for_one_address_and_for_all() {
        let admission = admission(|limits| {
            limits.connection_rate_per_address = 2;
            limits.connection_rate = 3;
        });
        let (a, b) = (client("192.0.2.1"), client("192.0.2.2"));
        admission.connection_at(a, 0).unwrap();
        admission.connection_at(a, 0).unwrap();
        assert_eq!(over(admission.connection_at(a, 0)), Over::AddressConnectionRate);
        admission.connection_at(b, 0).unwrap();
        assert_eq!(over(admission.connection_at(b, 0)), Over::ConnectionRate);
        admission.connection_at(a, 500 * MS).unwrap();
        assert_eq!(over(admission.connection_at(a, 500 * MS)), Over::AddressConnectionRate);
    }

    #[test]
    fn a_batch_takes_as_many_as_it_has_events() {
        let admission = admission(|limits| limits.publish_rate = 10);
        let a = client("192.0.2.1");
        admission.publish_at(a, None, None, 6, 0).unwrap();
        let refused = admission.publish_at(a, None, None, 6, 0).unwrap_err();
        assert_eq!((refused.over, refused.limit), (Over::PublishRate, 10));
        assert_eq!(refused.after, Some(Duration::from_millis(200)));
        admission.publish_at(a, None, None, 6, 200 * MS).unwrap();
        // A subject has its own account and limit, from whatever address it publishes.
        admission.publish_at(a, Some("ann"), None, 10, 200 * MS).unwrap();
        assert!(admission.publish_at(own(), Some("ann"), None, 1, 200 * MS).is_err());
        admission.publish_at(own(), Some("ann"), Some(1000), 1, 1000 * MS).unwrap();
        admission.publish_at(own(), Some("bob"), Some(0), 1000, 0).unwrap();
    }

    #[test]
    fn more_than_a_seconds_events_are_taken_at_once_and_paid_for() {
        let admission = admission(|limits| limits.publish_rate = 10);
        let a = client("192.0.2.1");
        admission.publish_at(a, None, None, 100, 0).unwrap();
        let refused = admission.publish_at(a, None, None, 1, 0).unwrap_err();
        assert_eq!(refused.after, Some(Duration::from_millis(9_100)));
        assert!(admission.publish_at(a, None, None, 1, 9_099 * MS).is_err());
        admission.publish_at(a, None, None, 1, 9_100 * MS).unwrap();
    }

    #[test]
    fn rates_of_idle_addresses_are_dropped() {
        let admission = admission(|limits| limits.publish_rate = 10);
        for n in 0..100_000_u32 {
            let ip = IpAddr::V4((0x0100_0000 + n).into());
            // One per millisecond: each bucket is full again after 100 ms, so about 100 accounts
            // are in use.
            admission.publish_at(ClientAddr::told(ip), None, None, 1, u64::from(n) * MS).unwrap();
            assert!(accounts(&admission) <= FEW_ACCOUNTS);
        }
    }

    proptest! {
        /// In no interval does a bucket give more than its capacity plus what the interval refills.
        #[test]
        fn a_bucket_gives_no_more_than_its_rate(
            rate in 1u32..200,
            asks in proptest::collection::vec((0u64..300, 1u64..20), 1..100),
        ) {
            let (mut bucket, mut now, mut given) = (Bucket::default(), SECOND, Vec::new());
            for (pause, n) in asks {
                now += pause * MS;
                match bucket.take(n, rate, now, Over::PublishRate) {
                    Ok(()) => given.push((now, n)),
                    Err(refused) => {
                        let after = refused.after.unwrap().as_nanos() as u64;
                        prop_assert!(bucket.take(n, rate, now + after - 1, Over::PublishRate).is_err());
                        let mut later = bucket;
                        prop_assert!(later.take(n, rate, now + after, Over::PublishRate).is_ok());
                    }
                }
            }
            for (from, _) in &given {
                for (to, last) in &given {
                    let sum: u64 = given.iter().filter(|(at, _)| at >= from && at < to).map(|(_, n)| n).sum();
                    if to > from {
                        // Sums only what was given before `to`, because the last take may overdraw
                        // the bucket.
                        let allowed = u64::from(rate) * (to - from) / SECOND + u64::from(rate) + last;
                        prop_assert!(sum <= allowed + 20, "{sum} > {allowed}");
                    }
                }
            }
        }

        /// In whatever order leases are taken and dropped, the counts match what is open.
        #[test]
        fn counts_are_of_what_is_open(steps in proptest::collection::vec((0u8..4, 0u8..3, any::<bool>()), 0..80)) {
            let admission = admission(|limits| {
                limits.connections_per_address = 3;
                limits.streams_per_subject = 2;
            });
            let mut open: Vec<(u8, bool, Box<dyn std::any::Any>)> = Vec::new();
            for (who, kind, close) in steps {
                let ip = client(&format!("192.0.2.{who}"));
                let subject = format!("s{who}");
                if close && !open.is_empty() {
                    open.remove(usize::from(who) % open.len());
                    continue;
                }
                let of_connections = kind > 0;
                let count = open.iter().filter(|(w, k, _)| *w == who && *k == of_connections).count();
                let got: Option<Box<dyn std::any::Any>> = if of_connections {
                    admission.connection(ip).ok().map(|lease| Box::new(lease) as _)
                } else {
                    admission.stream(ip, Some(&subject), None).ok().map(|lease| Box::new(lease) as _)
                };
                prop_assert_eq!(got.is_some(), count < if of_connections { 3 } else { 2 });
                open.extend(got.map(|lease| (who, of_connections, lease)));
            }
            drop(open);
            prop_assert_eq!(accounts(&admission), 0);
        }
    }
}
