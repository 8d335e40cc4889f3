// Package netns makes networks of its own for tests: a network namespace for each
// node, joined by a router in a namespace of its own, where packets between two
// nodes can be dropped in one direction or both, and links slowed down.
//
//	node "b1" 10.77.1.1 --- 10.77.1.254 \
//	node "b2" 10.77.2.1 --- 10.77.2.254 - router
//	node "c"  10.77.3.1 --- 10.77.3.254 /
//
// Nothing has a name outside: namespaces are held by descriptors, so that they
// and their devices vanish with the last process in them, also when the test is
// killed, and networks of several tests have the same addresses without meeting.
// Whoever wants to speak with a node does so from another node, by [Node.Dial],
// [Node.Listen] or a process that [Node.Start] starts.
//
// A cut drops packets in the router without a word to either side, as a broken
// cable does: connections stay, and go on when the cut heals. [Weather] loses single
// packets and delays them, in this process: the kernels this runs on need not have
// netem.
//
// The package needs root and the program ip (and tc for [Network.Rate]);
// [ErrCannot] says what is missing. Its methods may be used by many goroutines;
// it runs one goroutine for each [Network.Flap], and, from the first
// [Network.SetWeather] to Close, one and another for each direction that has weather.
package netns
