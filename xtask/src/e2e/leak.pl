# Accepts connections and never closes them, although their peers have: CLOSE_WAIT.
use IO::Socket::INET;
$0 = 'leaky';
my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1',
    LocalPort => 7320,
    Listen    => 8,
    ReuseAddr => 1,
) or die "no listener: $!\n";
for (1 .. 40) {
    my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1:7320') or die "refused: $!\n";
    push @leaked, $listener->accept;
    close $client;
}
sleep 1 while 1;
