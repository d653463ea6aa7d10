package rfc9568

// level is how binding a point is, RFC 2119.
type level string

const (
	must   level = "MUST"
	should level = "SHOULD"
	may    level = "MAY"
)

// clause is a point of RFC 9568 in our words.
type clause struct {
	number   int
	sections []string
	level    level
	text     string
	// positive tests show that the point is kept, negative ones what must not happen
	// or what is refused: "package/TestName" or "package/TestName/subtest".
	positive, negative []string
	// remark says what a reader of the table must know beside.
	remark string
}

// clauses are all points in the order of the RFC's parts.
func clauses() []clause {
	var all []clause
	for _, part := range [][]clause{transmission(), reception(), parameters(), states(), master(), operation()} {
		all = append(all, part...)
	}
	return all
}

func transmission() []clause {
	return []clause{
		{
			1,
			[]string{"5.1.1.1", "5.1.2.1", "7.2"},
			must, "An advert comes from the primary address of the sending interface, never from a virtual one; over IPv6 from its link-local address.",
			[]string{"vrrp/wire/TestRFC9568_7_2_AdvertOnTheWire", "vrrp/wire/TestRFC9568_7_2_IPv6AdvertOnTheWire"},
			[]string{"vrrp/TestRFC9568_5_1_1_1_SourceIsThePrimaryAddress", "vrrp/elector/TestRFC9568_5_1_2_1_GlobalSourceIsRefused"},
			"",
		},
		{
			2,
			[]string{"5.1.1.2", "5.1.2.2", "5.1"},
			must, "Adverts go to 224.0.0.18 or ff02::12, which no router forwards.",
			[]string{"vrrp/wire/TestRFC9568_5_1_1_2_AdvertsGoToTheGroup", "vrrp/wire/TestRFC9568_5_1_2_2_AdvertsGoToTheGroup", "vrrp/TestRFC9568_5_1_Destinations"},
			[]string{
				"vrrp/wire/TestRFC9568_5_1_1_2_OtherDestinationsAreNotHeard", "vrrp/wire/TestRFC9568_5_1_2_2_OtherDestinationsAreNotHeard",
				"vrrp/wire/TestRFC9568_5_1_1_2_GroupIsNotForwarded", "vrrp/wire/TestRFC9568_5_1_2_2_GroupIsNotForwarded",
			},
			"",
		},
		{
			3,
			[]string{"5.1.1.3", "5.1.2.3"},
			must, "TTL and hop limit are 255; anything else is discarded.",
			[]string{"vrrp/wire/TestRFC9568_5_1_1_3_TTL255", "vrrp/wire/TestRFC9568_5_1_2_3_HopLimit255"},
			[]string{"vrrp/wire/TestRFC9568_5_1_1_3_OtherTTLIsDropped", "vrrp/wire/TestRFC9568_5_1_2_3_OtherHopLimitIsDropped", "vrrp/wire/TestRFC9568_5_1_1_3_FramesForTheFenceHaveOtherTTLs"},
			"",
		},
		{
			4,
			[]string{"5.1.1.4", "5.1.2.4"},
			must, "The protocol, or next header, is 112.",
			[]string{"vrrp/wire/TestRFC9568_5_1_1_4_Protocol112", "vrrp/wire/TestRFC9568_5_1_2_4_NextHeader112"},
			[]string{"vrrp/wire/TestRFC9568_5_1_1_4_OtherProtocolsAreNotHeard", "vrrp/wire/TestRFC9568_5_1_2_4_OtherNextHeadersAreNotHeard"},
			"",
		},
		{
			5,
			[]string{"5.2.1", "5.2.2", "5.2"},
			must, "Version 3, type 1; a packet of another type is discarded.",
			[]string{"vrrp/TestRFC9568_5_2_1_Version3AndType1AreSent", "vrrp/TestRFC9568_5_2_Vectors"},
			[]string{"vrrp/TestRFC9568_5_2_2_UnknownTypeIsDiscarded"},
			"",
		},
		{
			6,
			[]string{"5.2.3"},
			must, "The VRID is 1 to 255. An IPv4 and an IPv6 router with the same VRID are two routers.",
			[]string{"vrrp/TestRFC9568_5_2_3_EveryVRID", "vrrp/wire/TestRFC9568_5_2_3_OneReceiverHearsEveryVRID", "vrrp/elector/TestRFC9568_5_2_3_FamiliesAreIndependent"},
			[]string{"vrrp/TestRFC9568_5_2_3_VRID0IsRefused", "vrrp/elector/TestRFC9568_5_2_3_AdvertsOfTheOtherFamilyDoNotCount"},
			"Sockets, addresses, MAC addresses and adverts are separate; the election of a group is one, see the deviations.",
		},
		{
			7,
			[]string{"5.2.4"},
			must, "The owner of the addresses has priority 255, everybody else 1 to 254; 0 says that the MASTER leaves.",
			[]string{"vrrp/TestRFC9568_5_2_4_OwnerIs255"},
			[]string{"vrrp/TestRFC9568_5_2_4_BackupsAre1To254"},
			"",
		},
		{
			8,
			[]string{"5.2.5"},
			must, "An advert has one address or more; one without is ignored (erratum 8299).",
			[]string{"vrrp/TestRFC9568_5_2_5_MostAddresses"},
			[]string{"vrrp/TestRFC9568_5_2_5_NoAddressIsIgnored"},
			"",
		},
		{
			9,
			[]string{"5.2.6", "7.1"},
			must, "The four reserved bits are zero when sent and ignored when received.",
			[]string{"vrrp/TestRFC9568_5_2_6_ReservedBitsAreSentAsZero", "vrrp/TestRFC9568_5_2_6_ReservedBitsAreIgnored"},
			[]string{"vrrp/TestRFC9568_7_1_Refusals/§5.2.6 reserved bits are no interval"},
			"",
		},
		{
			10,
			[]string{"5.2.7"},
			must, "Max Advertise Interval has 12 bits of centiseconds, 1 to 4095; 0 is rejected (erratum 8301).",
			[]string{"vrrp/TestRFC9568_5_2_7_IntervalLimits"},
			[]string{"vrrp/TestRFC9568_5_2_7_Interval0IsRejected"},
			"",
		},
		{
			11,
			[]string{"5.2.8", "5.2"},
			must, "The checksum covers the message; over IPv6 the pseudo-header, too, over IPv4 not.",
			[]string{"vrrp/wire/TestRFC9568_5_2_8_ChecksumOnTheWire", "vrrp/TestRFC9568_5_2_8_BothFlavoursAreAccepted", "vrrp/TestRFC9568_5_2_Vectors/IPv4 plain"},
			[]string{"vrrp/wire/TestRFC9568_5_2_8_DamagedMessageIsDropped", "vrrp/TestRFC9568_5_2_8_PlainChecksumIsForIPv4Only"},
			"",
		},
		{
			12,
			[]string{"5.2.9"},
			must, "The addresses are of the family of the IP header; the first of IPv6 is link-local (erratum 8300).",
			[]string{"vrrp/TestRFC9568_5_2_9_LinkLocalFirst"},
			[]string{"vrrp/TestRFC9568_5_2_9_OtherFirstAddressIsRefused"},
			"",
		},
		{
			13,
			[]string{"7.2"},
			must, "Before it is sent an advert is filled in from the configuration and summed up; it leaves from the virtual MAC address to the group.",
			[]string{"vrrp/wire/TestRFC9568_7_2_AdvertOnTheWire", "vrrp/wire/TestRFC9568_7_2_IPv6AdvertOnTheWire"},
			[]string{"vrrp/TestRFC9568_7_2_WrongConfigurationIsNotSent", "vrrp/wire/TestRFC9568_7_2_NoAdvertWithoutTheVirtualMAC"},
			"",
		},
		{
			14,
			[]string{"7.3"},
			must, "The virtual MAC address is 00-00-5E-00-01-VRID for IPv4 and 00-00-5E-00-02-VRID for IPv6.",
			[]string{"vrrp/TestRFC9568_7_3_VirtualMAC"},
			[]string{"vrrp/TestRFC9568_7_3_FamiliesHaveMACsOfTheirOwn"},
			"",
		},
		{
			15,
			[]string{"7.4"},
			must, "No interface identifier is made of a virtual MAC address.",
			[]string{"router/kernel/TestRFC9568_7_4_InterfaceIdentifierFromVirtualMACIsRemoved"},
			[]string{"router/kernel/TestRFC9568_7_4_NoInterfaceIdentifierFromVirtualMAC"},
			"",
		},
	}
}

func reception() []clause {
	const discards = "vrrp/elector/TestRFC9568_7_1_DiscardsAreCountedAndLogged"
	return []clause{
		{
			16,
			[]string{"7.1"},
			must, "On receipt: the TTL or hop limit is 255. Whatever fails a check is discarded; it should be logged, with a limit.",
			[]string{"vrrp/TestRFC9568_7_1_Accepts/TTL 255", "vrrp/TestRFC9568_7_1_Accepts/hop limit 255", discards, "vrrp/TestRFC9568_7_1_Order"},
			[]string{"vrrp/TestRFC9568_7_1_Refusals/§5.1.1.3 TTL 254", "vrrp/TestRFC9568_7_1_Refusals/§5.1.2.3 hop limit 254", discards + "/ttl", "vrrp/elector/TestRFC9568_7_1_LogIsRateLimited"},
			"",
		},
		{
			17,
			[]string{"7.1"},
			must, "On receipt: the version is 3.",
			[]string{"vrrp/TestRFC9568_7_1_Accepts/version 3"},
			[]string{"vrrp/TestRFC9568_7_1_Refusals/§5.2.1 version 1", "vrrp/TestRFC9568_7_1_Refusals/§5.2.1 version 4", "vrrp/TestRFC9568_7_1_Refusals/§5.2.1 version 2 over IPv6", discards + "/version"},
			"",
		},
		{
			18,
			[]string{"7.1"},
			must, "On receipt: the type is 1.",
			[]string{"vrrp/TestRFC9568_7_1_Accepts/type 1"},
			[]string{"vrrp/TestRFC9568_7_1_Refusals/§5.2.2 type 0", "vrrp/TestRFC9568_7_1_Refusals/§5.2.2 type 2"},
			"",
		},
		{
			19,
			[]string{"7.1"},
			must, "On receipt: the packet is complete. What pads the frame is no part of it.",
			[]string{
				"vrrp/TestRFC9568_7_1_Accepts/complete to the last octet", "vrrp/TestRFC9568_7_1_Accepts/IPv6 complete to the last octet",
				"vrrp/TestRFC9568_7_1_PaddingIsTolerated", "vrrp/wire/TestRFC9568_7_1_PaddingIsTolerated",
			},
			[]string{
				"vrrp/TestRFC9568_7_1_Refusals/§7.1 fixed part cut", "vrrp/TestRFC9568_7_1_Refusals/§7.1 address cut",
				"vrrp/TestRFC9568_7_1_Refusals/§5.2.5 count beyond the packet", "vrrp/wire/TestRFC9568_7_1_IncompletePacketIsDropped",
			},
			"",
		},
		{
			20,
			[]string{"7.1"},
			must, "On receipt: the checksum is right.",
			[]string{"vrrp/TestRFC9568_7_1_Accepts/checksum", "vrrp/TestRFC9568_7_1_Accepts/IPv6 checksum"},
			[]string{"vrrp/TestRFC9568_7_1_Refusals/§5.2.8 priority changed on the way", "vrrp/TestRFC9568_7_1_Refusals/§5.2.8 IPv6 priority changed on the way"},
			"",
		},
		{
			21,
			[]string{"7.1"},
			must, "On receipt: the VRID is configured on the interface, for the family.",
			[]string{"vrrp/elector/TestRFC9568_7_1_ConfiguredVRIDCounts", "vrrp/TestRFC9568_7_1_Accepts/the lowest VRID", "vrrp/TestRFC9568_7_1_Accepts/the highest VRID"},
			[]string{"vrrp/elector/TestRFC9568_7_1_OtherVRIDsAreDropped", "vrrp/TestRFC9568_7_1_Refusals/§5.2.3 VRID 0"},
			"",
		},
		{
			22,
			[]string{"7.1"},
			should, "On receipt: the router is not the owner of the addresses. Erratum 8298 makes that a reason to log and not to discard, so that two owners still elect one.",
			[]string{"vrrp/TestRFC9568_7_1_OwnerHearsAnotherOwner", "vrrp/TestRFC9568_7_1_Accepts/an advert of an owner"},
			[]string{"vrrp/TestRFC9568_7_1_OwnerYieldsToNoBackup"},
			"Logged is an advert of another owner; those of lower priority are usual whenever an owner comes back.",
		},
		{
			23,
			[]string{"7.1"},
			must, "On receipt: there is an address (erratum 8299).",
			[]string{"vrrp/TestRFC9568_7_1_Accepts/a single address", "vrrp/TestRFC9568_7_1_Accepts/a single IPv6 address"},
			[]string{"vrrp/TestRFC9568_7_1_Refusals/§5.2.5 no address", "vrrp/TestRFC9568_7_1_Refusals/§5.2.5 no IPv6 address"},
			"",
		},
		{
			24,
			[]string{"7.1"},
			must, "On receipt: the interval is not 0 (erratum 8301).",
			[]string{"vrrp/TestRFC9568_7_1_Accepts/the shortest interval", "vrrp/TestRFC9568_7_1_Accepts/the longest interval"},
			[]string{"vrrp/TestRFC9568_7_1_Refusals/§5.2.7 interval 0"},
			"",
		},
		{
			25,
			[]string{"7.1"},
			must, "On receipt: the first address of IPv6 is link-local (erratum 8300).",
			[]string{"vrrp/TestRFC9568_7_1_Accepts/link-local first"},
			[]string{"vrrp/TestRFC9568_7_1_Refusals/§5.2.9 first address is not link-local"},
			"",
		},
		{
			26,
			[]string{"7.1"},
			should, "An interval that is not the configured one is logged, and the advert is not dropped for it.",
			[]string{"vrrp/elector/TestRFC9568_7_1_MismatchIsLoggedAndNotDropped/interval", "vrrp/elector/TestRFC9568_7_1_MismatchIsLoggedAndNotDropped/a learned interval"},
			[]string{"vrrp/elector/TestRFC9568_7_1_MatchIsNotReported/the same", "vrrp/elector/TestRFC9568_7_1_MatchIsNotReported/right again"},
			"",
		},
		{
			27,
			[]string{"7.1"},
			may, "Addresses that are not the configured ones may be logged, and the advert is not dropped for them.",
			[]string{"vrrp/elector/TestRFC9568_7_1_MismatchIsLoggedAndNotDropped/addresses", "vrrp/elector/TestRFC9568_7_1_MismatchIsLoggedAndNotDropped/more addresses"},
			[]string{"vrrp/elector/TestRFC9568_7_1_MatchIsNotReported/another order"},
			"",
		},
	}
}
