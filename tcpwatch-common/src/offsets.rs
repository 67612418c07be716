//! Where the running kernel keeps the fields that the programs read.
//!
//! The agent looks each one up in `/sys/kernel/btf/vmlinux` before the load. A load through a pointer whose
//! type the verifier knows has a [`placeholder`], in whose place the agent puts the offset. For all else
//! the offsets lie in `.rodata`, frozen, so that the verifier knows each as a constant: a branch on
//! [`ABSENT`] that is false is not even looked at, so one object serves every kernel from 5.10 on.

/// The value of an offset whose field the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// The least placeholder. Only the stack has negative offsets, down to -512, so that no other load has such
/// a one.
const PLACEHOLDERS: i16 = -0x7000;
/// Between the placeholders of two fields.
const STEP: i16 = 16;

/// The offset in an instruction that loads the field of this number in [`FIELDS`], from a byte of it on,
/// less than 16.
#[must_use]
pub const fn placeholder(field: usize, byte: usize) -> i16 {
    assert!(field < FIELDS.len() && byte < STEP as usize);
    PLACEHOLDERS + field as i16 * STEP + byte as i16
}

/// The number of the field and the byte of a placeholder; `None` for any other offset.
#[must_use]
pub const fn of_placeholder(offset: i16) -> Option<(usize, usize)> {
    let above = offset as i32 - PLACEHOLDERS as i32;
    let (field, byte) = (above / STEP as i32, above % STEP as i32);
    if above < 0 || field as usize >= FIELDS.len() {
        return None;
    }
    Some((field as usize, byte as usize))
}

const _: () = assert!((FIELDS.len() as i32) * (STEP as i32) < -512 - PLACEHOLDERS as i32);

/// Names a field for the agent's look-up in BTF.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The structure, as the kernel names it.
    pub container: &'static str,
    /// The member, with a dot for each nested structure.
    pub member: &'static str,
    /// Whether the programs work without it.
    pub optional: bool,
}

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident = $container:literal $member:literal $($optional:ident)?;)*) => {
        /// Byte offset of each field, in the order of [`FIELDS`].
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct Offsets {
            $($(#[$doc])* pub $name: u32,)*
            /// Arguments that `tcp_send_reset` has: 2 before 6.10 (sk, skb), 3 since (reason).
            pub send_reset_arguments: u32,
            /// Parameters that `inet_csk_accept` has: 4 before 6.10, 2 since; 0 where it is unknown.
            pub accept_parameters: u32,
            /// Bit offset of `sk_userlocks` in `struct sock`, a bit-field.
            pub sk_userlocks_bit: u32,
            /// 1 with `bpf_get_current_task_btf` (5.11 and later), which allows direct loads from
            /// the current task; else 0.
            pub has_current_task_btf: u32,
            /// 1 with `bpf_task_pt_regs` (5.15 and later), which tells a task's user stack pointer;
            /// else 0.
            pub has_task_pt_regs: u32,
        }

        /// The field behind each offset.
        pub const FIELDS: &[Field] = &[
            $(Field { container: $container, member: $member, optional: offsets!(@ $($optional)?) },)*
        ];

        impl Offsets {
            /// Nothing looked up yet.
            pub const ABSENT: Self = Self { $($name: ABSENT,)*
                send_reset_arguments: 0,
                accept_parameters: 0,
                sk_userlocks_bit: ABSENT,
                has_current_task_btf: 0,
                has_task_pt_regs: 0,
            };

            /// The offsets in the order of [`FIELDS`].
            #[must_use]
            pub const fn offsets(&self) -> [u32; FIELDS.len()] {
                [$(self.$name,)*]
            }

            /// Takes the offsets, one value for each of [`FIELDS`] in order; `false` if there are
            /// too few.
            pub fn set_offsets(&mut self, values: &[u32]) -> bool {
                let mut values = values.iter().copied();
                $(match values.next() {
                    Some(value) => self.$name = value,
                    None => return false,
                })*
                true
            }
        }
    };
    (@ optional) => { true };
    (@) => { false };
}

offsets! {
    /// `u16` in host byte order.
    skc_family = "sock_common" "skc_family";
    /// `unsigned char`.
    skc_state = "sock_common" "skc_state";
    /// `__be32`, meaningful for AF_INET only.
    skc_daddr = "sock_common" "skc_daddr";
    /// `__be32`.
    skc_rcv_saddr = "sock_common" "skc_rcv_saddr";
    /// `struct in6_addr`.
    skc_v6_daddr = "sock_common" "skc_v6_daddr";
    /// `struct in6_addr`.
    skc_v6_rcv_saddr = "sock_common" "skc_v6_rcv_saddr";
    /// `__be16`.
    skc_dport = "sock_common" "skc_dport";
    /// `__u16` in host byte order.
    skc_num = "sock_common" "skc_num";
    /// `unsigned int`: its low bits choose the bucket.
    skc_hash = "sock_common" "skc_hash" optional;
    /// `struct hlist_nulls_node`: the next one in the table of connections or listeners.
    skc_nulls_node = "sock_common" "skc_nulls_node" optional;
    /// `struct hlist_node`: the next one on the port.
    skc_bind_node = "sock_common" "skc_bind_node" optional;
    /// `struct net *` inside `possible_net_t`.
    skc_net = "sock_common" "skc_net.net";
    /// `unsigned int`: the number that `stat` shows for the namespace's file.
    net_inum = "net" "ns.inum";
    /// `u64`, 5.14 and later: never used again, as the inode number is.
    net_cookie = "net" "net_cookie" optional;
    /// `struct list_head`: all namespaces, the first one first.
    net_list = "net" "list" optional;
    /// `u32`.
    net_hash_mix = "net" "hash_mix" optional;
    /// `struct inet_hashinfo *`, inside `struct net` from 6.1 on (5.18 had a pointer on the way).
    net_hashinfo = "net" "ipv4.tcp_death_row.hashinfo" optional;
    /// `int`.
    net_max_tw_buckets = "net" "ipv4.tcp_death_row.sysctl_max_tw_buckets" optional;
    /// `u32` from 6.8 on, the last port in its upper half.
    net_local_ports = "net" "ipv4.ip_local_ports.range" optional;
    /// The lock beside it, before 6.8: then these are two `int`.
    net_local_ports_lock = "net" "ipv4.ip_local_ports.lock" optional;
    /// `unsigned long *`: a bit for each port.
    net_reserved_ports = "net" "ipv4.sysctl_local_reserved_ports" optional;
    /// `u8`, as the five that follow.
    net_syncookies = "net" "ipv4.sysctl_tcp_syncookies" optional;
    /// See above.
    net_abort_on_overflow = "net" "ipv4.sysctl_tcp_abort_on_overflow" optional;
    /// See above.
    net_retries2 = "net" "ipv4.sysctl_tcp_retries2" optional;
    /// See above.
    net_orphan_retries = "net" "ipv4.sysctl_tcp_orphan_retries" optional;
    /// See above.
    net_tw_reuse = "net" "ipv4.sysctl_tcp_tw_reuse" optional;
    /// See above.
    net_timestamps = "net" "ipv4.sysctl_tcp_timestamps" optional;
    /// `unsigned int`, milliseconds; 6.14 and later.
    net_tw_reuse_delay = "net" "ipv4.sysctl_tcp_tw_reuse_delay" optional;
    /// `int`.
    net_somaxconn = "net" "core.sysctl_somaxconn" optional;
    /// `struct inet_ehash_bucket *`, each a pointer.
    ehash = "inet_hashinfo" "ehash" optional;
    /// `unsigned int`.
    ehash_mask = "inet_hashinfo" "ehash_mask" optional;
    /// `struct inet_bind_hashbucket *`.
    bhash = "inet_hashinfo" "bhash" optional;
    /// `unsigned int`: a power of two.
    bhash_size = "inet_hashinfo" "bhash_size" optional;
    /// `struct inet_listen_hashbucket *`.
    lhash2 = "inet_hashinfo" "lhash2" optional;
    /// `unsigned int`.
    lhash2_mask = "inet_hashinfo" "lhash2_mask" optional;
    /// `struct hlist_head` behind a lock.
    bhash_chain = "inet_bind_hashbucket" "chain" optional;
    /// `struct hlist_nulls_head` behind a lock.
    lhash2_head = "inet_listen_hashbucket" "nulls_head" optional;
    /// `struct net *` inside `possible_net_t`.
    ib_net = "inet_bind_bucket" "ib_net.net" optional;
    /// `unsigned short` in host byte order.
    ib_port = "inet_bind_bucket" "port" optional;
    /// `struct hlist_node`.
    ib_node = "inet_bind_bucket" "node" optional;
    /// `struct hlist_head` of the sockets on the port, before 6.8.
    ib_owners = "inet_bind_bucket" "owners" optional;
    /// `struct hlist_head` of the addresses on the port, from 6.8 on.
    ib_addresses = "inet_bind_bucket" "bhash2" optional;
    /// `struct hlist_node`: the next address on the port.
    ib2_node = "inet_bind2_bucket" "bhash_node" optional;
    /// `struct hlist_head` of the sockets on the address and port.
    ib2_owners = "inet_bind2_bucket" "owners" optional;
    /// `struct task_struct *`: of the first task, itself.
    real_parent = "task_struct" "real_parent" optional;
    /// `struct nsproxy *`.
    nsproxy = "task_struct" "nsproxy" optional;
    /// `struct net *`.
    nsproxy_net = "nsproxy" "net_ns" optional;
    /// `u16` since 5.6.
    sk_protocol = "sock" "sk_protocol";
    /// `int`.
    sk_err = "sock" "sk_err";
    /// `unsigned long`.
    skc_flags = "sock_common" "skc_flags";
    /// `unsigned long`; the low half shows whether it is 0.
    sk_lingertime = "sock" "sk_lingertime";
    /// `u8`.
    sk_shutdown = "sock" "sk_shutdown";
    /// `u32`.
    sk_ack_backlog = "sock" "sk_ack_backlog";
    /// `u32`.
    sk_max_ack_backlog = "sock" "sk_max_ack_backlog";
    /// `atomic_t`: what the socket dropped; a listener, connections.
    sk_drops = "sock" "sk_drops" optional;
    /// `struct socket *`.
    sk_socket = "sock" "sk_socket";
    /// `struct file *`.
    socket_file = "socket" "file";
    /// `struct inode *`.
    file_inode = "file" "f_inode";
    /// `unsigned long`.
    i_ino = "inode" "i_ino";
    /// `umode_t`, 16 bits.
    i_mode = "inode" "i_mode";
    /// `__be16`: stays when `skc_num` is cleared at CLOSE.
    inet_sport = "inet_sock" "inet_sport";
    /// Two `u16` in host byte order, the first and the last port; 6.3 and later. From 6.8 on a
    /// `u32`, the last in its upper half, which on a little-endian machine is the same.
    local_port_range = "inet_sock" "local_port_range" optional;
    /// `struct inet_bind_bucket *`.
    icsk_bind_hash = "inet_connection_sock" "icsk_bind_hash" optional;
    /// `atomic_t`.
    accept_queue_qlen = "inet_connection_sock" "icsk_accept_queue.qlen";
    /// `struct request_sock *`: the connection that has waited for accept() longest.
    accept_head = "inet_connection_sock" "icsk_accept_queue.rskq_accept_head" optional;
    /// `struct request_sock *`: the one behind it.
    dl_next = "request_sock" "dl_next" optional;
    /// `struct sock *`: its socket.
    request_sk = "request_sock" "sk" optional;
    /// `struct sock *`: the listener in whose queue it waits.
    rsk_listener = "request_sock" "__req_common.skc_listener" optional;
    /// `struct socket_wq *`.
    sk_wq = "sock" "sk_wq" optional;
    /// `struct list_head *`: the first that waits for the socket, the list's head if none does.
    wq_first = "socket_wq" "wait.head.next" optional;
    /// `signed char`: negative where connect() made the bucket.
    fastreuse = "inet_bind_bucket" "fastreuse" optional;
    /// `signed char`: likewise.
    fastreuseport = "inet_bind_bucket" "fastreuseport" optional;
    /// `u32`.
    rcv_nxt = "tcp_sock" "rcv_nxt";
    /// `u32`.
    copied_seq = "tcp_sock" "copied_seq";
    /// `u32`: behind the last byte that the process has written.
    write_seq = "tcp_sock" "write_seq";
    /// `u32`: the end of what was sent.
    snd_nxt = "tcp_sock" "snd_nxt";
    /// `u32`: the first byte that is not acknowledged.
    snd_una = "tcp_sock" "snd_una";
    /// `u32`: the window that the peer has offered last.
    snd_wnd = "tcp_sock" "snd_wnd";
    /// `u8`: times that the first unacknowledged segment was sent again, since the last progress.
    icsk_retransmits = "inet_connection_sock" "icsk_retransmits";
    /// `u8`: how often the timer was doubled; it is kept while the peer answers probes of a window
    /// of zero (`tcp_ack_probe`, net/ipv4/tcp_input.c).
    icsk_backoff = "inet_connection_sock" "icsk_backoff";
    /// `u8`: probes of a closed window that the peer has not answered.
    icsk_probes_out = "inet_connection_sock" "icsk_probes_out";
    /// `u32`, milliseconds: TCP_USER_TIMEOUT, 0 without one.
    icsk_user_timeout = "inet_connection_sock" "icsk_user_timeout";
    /// `u64`: data bytes received in order.
    bytes_received = "tcp_sock" "bytes_received";
    /// `u64`: data bytes that the peer has acknowledged.
    bytes_acked = "tcp_sock" "bytes_acked";
    /// `u32`, jiffies: when data was sent last.
    lsndtime = "tcp_sock" "lsndtime";
    /// `u32`, jiffies: when data was received last.
    lrcvtime = "inet_connection_sock" "icsk_ack.lrcvtime";
    /// `u64`, microseconds of CLOCK_MONOTONIC: the last segment processed.
    tcp_mstamp = "tcp_sock" "tcp_mstamp";
    /// `u64`: data bytes sent, retransmissions included.
    bytes_sent = "tcp_sock" "bytes_sent" optional;
    /// `u64`, microseconds of CLOCK_MONOTONIC: when data was last acknowledged, or sent while
    /// nothing was under way (`tcp_rate_gen` and `tcp_rate_skb_sent`, net/ipv4/tcp_rate.c).
    delivered_mstamp = "tcp_sock" "delivered_mstamp" optional;
    /// `u32`: segments sent and not acknowledged; a SYN counts.
    packets_out = "tcp_sock" "packets_out" optional;
    /// `struct inet_bind_bucket *`.
    tw_tb = "inet_timewait_sock" "tw_tb" optional;
    /// `u32`, milliseconds of CLOCK_MONOTONIC: when the first SYN was sent, while in SYN_SENT
    /// (`tcp_connect`, net/ipv4/tcp_output.c).
    retrans_stamp = "tcp_sock" "retrans_stamp";
    /// `u32`, milliseconds of CLOCK_MONOTONIC: when TIME_WAIT began. 6.14 and later.
    tw_entry_stamp = "inet_timewait_sock" "tw_entry_stamp" optional;
    /// `unsigned char`: TIME_WAIT or FIN_WAIT2.
    tw_substate = "inet_timewait_sock" "tw_substate";
    /// `int`, seconds of CLOCK_MONOTONIC; 0 without timestamps.
    tw_ts_recent_stamp = "tcp_timewait_sock" "tw_ts_recent_stamp";
    /// `u8`: SYN-ACKs sent again.
    num_retrans = "request_sock" "num_retrans";
    /// `u64`, microseconds of CLOCK_MONOTONIC: when the first SYN-ACK was sent
    /// (`tcp_make_synack`, net/ipv4/tcp_output.c).
    snt_synack = "tcp_request_sock" "snt_synack" optional;
    /// `unsigned char *`.
    skb_head = "sk_buff" "head";
    /// `u16`, from `head`.
    skb_transport_header = "sk_buff" "transport_header";
    /// `u16`, from `head`.
    skb_network_header = "sk_buff" "network_header";
    /// `unsigned int`: bytes from `data` on, which is the TCP header while TCP has the segment.
    skb_len = "sk_buff" "len";
    /// `struct net_device *`.
    skb_dev = "sk_buff" "dev";
    /// `struct net *` inside `possible_net_t`.
    dev_net = "net_device" "nd_net.net";
    /// `unsigned long`: the user stack pointer. x86 only.
    pt_regs_sp = "pt_regs" "sp" optional;
    /// `struct task_struct *`.
    group_leader = "task_struct" "group_leader";
    /// `char[16]`.
    comm = "task_struct" "comm";
    /// `u64`, nanoseconds of CLOCK_MONOTONIC.
    start_time = "task_struct" "start_time";
    /// `struct files_struct *`: the open files, which threads share as a rule.
    files = "task_struct" "files";
    /// `pid_t`: the thread.
    pid = "task_struct" "pid";
    /// `pid_t`: the process.
    tgid = "task_struct" "tgid";
}

const _: () = assert!(size_of::<Offsets>() == (FIELDS.len() + 5) * 4);

#[cfg(feature = "user")]
// SAFETY: repr(C) of u32 only: no padding, every bit pattern is valid.
unsafe impl aya::Pod for Offsets {}

#[cfg(test)]
mod tests {
    use super::{FIELDS, of_placeholder, placeholder};

    #[test]
    fn a_placeholder_names_its_field_and_byte() {
        for field in 0..FIELDS.len() {
            for byte in [0, 4, 8, 12] {
                assert_eq!(of_placeholder(placeholder(field, byte)), Some((field, byte)));
            }
        }
        let behind = placeholder(FIELDS.len() - 1, 15) + 1;
        for other in [i16::MIN, placeholder(0, 0) - 1, behind, -512, -8, 0, 512, i16::MAX] {
            assert_eq!(of_placeholder(other), None, "{other}");
        }
    }
}
