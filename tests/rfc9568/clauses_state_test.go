package rfc9568

func parameters() []clause {
	return []clause{
		{
			28,
			[]string{"6.1"},
			must, "Active_Adver_Interval begins as the router's own interval and is learned from the MASTER.",
			[]string{"vrrp/TestRFC9568_6_1_Timers"},
			[]string{"vrrp/TestRFC9568_6_1_IntervalOfALosingAdvertIsNotLearned"},
			"The default of Advertisement_Interval is a deviation.",
		},
		{
			29,
			[]string{"6.1"},
			must, "Skew_Time is (256 − priority) × Active_Adver_Interval / 256.",
			[]string{"vrrp/TestRFC9568_6_1_Timers"},
			[]string{"vrrp/TestRFC9568_6_1_SkewIsNotRoundedAway"},
			"",
		},
		{
			30,
			[]string{"6.1"},
			must, "Active_Down_Interval is three Active_Adver_Intervals and Skew_Time.",
			[]string{"vrrp/TestRFC9568_6_1_Timers"},
			[]string{"vrrp/TestRFC9568_6_1_TwoLostAdvertsMakeNoMaster"},
			"",
		},
		{
			31,
			[]string{"6.1", "6.4.2"},
			must, "With Preempt_Mode a BACKUP of higher priority preempts; the owner always does.",
			[]string{"vrrp/TestRFC9568_6_4_2_Backup/a lower priority is discarded with Preempt", "vrrp/TestRFC9568_6_1_OwnerPreemptsInAnyCase"},
			[]string{"vrrp/TestRFC9568_6_1_WithoutPreemptNobodyIsPreempted"},
			"The default is a deviation.",
		},
		{
			32,
			[]string{"6.1"},
			must, "With Accept_Mode false a MASTER accepts no packet to a virtual address; neighbour solicitations and advertisements are never dropped.",
			[]string{"router/kernel/TestRFC9568_6_1_AcceptModeFalseKeepsNeighbourDiscovery"},
			[]string{"router/kernel/TestRFC9568_6_1_AcceptModeFalseRefusesPackets"},
			"The default is a deviation.",
		},
		{
			33,
			[]string{"6.1", "6.2"},
			must, "There are two timers: Active_Down_Timer of a BACKUP, Adver_Timer of a MASTER.",
			[]string{"vrrp/TestRFC9568_6_1_TwoTimers"},
			[]string{"vrrp/TestRFC9568_6_2_TimersNeverRunTogether"},
			"",
		},
	}
}

func states() []clause {
	const backup = "vrrp/TestRFC9568_6_4_2_Backup/"
	return []clause{
		{
			34,
			[]string{"6.4.1"},
			must, "At startup the owner sends an advert, announces every address (gratuitous ARP; unsolicited neighbour advertisement with the flags R and O, and the groups of solicited nodes), sets Adver_Timer and is MASTER.",
			[]string{
				"vrrp/TestRFC9568_6_4_1_Initialize/the owner sends at once and is MASTER",
				"vrrp/wire/TestRFC9568_6_4_1_GratuitousARP", "vrrp/wire/TestRFC9568_6_4_1_UnsolicitedNeighborAdvertisement",
				"vrrp/wire/TestRFC9568_6_4_1_SolicitedNodeGroupIsReported",
			},
			[]string{"vrrp/wire/TestRFC9568_6_4_1_OtherAddressesAreNotAnnounced", "vrrp/TestRFC9568_6_4_1_Initialize/everybody else is BACKUP and silent"},
			"",
		},
		{
			35,
			[]string{"6.4.1"},
			must, "At startup everybody else sets Active_Down_Timer by its own interval and is BACKUP.",
			[]string{"vrrp/TestRFC9568_6_4_1_Initialize/everybody else is BACKUP and silent"},
			[]string{"vrrp/TestRFC9568_6_4_1_Initialize/nothing happens before Startup", "vrrp/TestRFC9568_6_4_1_Initialize/a second Startup is nothing"},
			"",
		},
		{
			36,
			[]string{"6.4.2"},
			must, "A BACKUP answers no ARP request and no neighbour solicitation for a virtual address, sends no router advertisement, discards frames to the virtual MAC address and accepts no packet to a virtual address.",
			[]string{"vrrp/fence/TestRFC9568_6_4_2_BackupIsReachableByItsOwnAddress"},
			[]string{
				"vrrp/fence/TestRFC9568_6_4_2_BackupDoesNotAnswerARP", "vrrp/fence/TestRFC9568_6_4_2_BackupDoesNotAnswerNeighborSolicitations",
				"vrrp/fence/TestRFC9568_6_4_2_BackupSendsNoRouterAdvertisement", "vrrp/fence/TestRFC9568_6_4_2_BackupDiscardsFramesToTheVirtualMAC",
				"vrrp/fence/TestRFC9568_6_4_2_BackupAcceptsNoPacketsToVirtualAddresses", "vrrp/TestRFC9568_6_4_2_BackupIsSilent",
			},
			"",
		},
		{
			37,
			[]string{"6.4.2"},
			must, "At shutdown a BACKUP cancels its timer.",
			[]string{backup + "Shutdown cancels the timer"},
			[]string{"vrrp/TestRFC9568_6_4_2_ShutdownOfABackupIsSilent"},
			"",
		},
		{
			38,
			[]string{"6.4.2"},
			must, "At the end of Active_Down_Timer a BACKUP sends an advert, then announces its addresses, sets Adver_Timer and is MASTER.",
			[]string{backup + "Active_Down_Timer makes a MASTER", backup + "the own interval counts again as MASTER", "vrrp/TestRFC9568_6_4_2_AdvertComesBeforeAnnouncements"},
			[]string{"vrrp/TestRFC9568_6_4_2_NoMasterBeforeTheDownInterval"},
			"",
		},
		{
			39,
			[]string{"6.4.2"},
			must, "An advert of priority 0 sets the timer of a BACKUP to Skew_Time.",
			[]string{backup + "priority 0 sets the timer to Skew_Time", backup + "priority 0 does so without Preempt too"},
			[]string{backup + "a living MASTER after a priority 0 counts"},
			"",
		},
		{
			40,
			[]string{"6.4.2"},
			must, "Without Preempt_Mode, or if its priority is not lower, an advert teaches its interval and sets the timer anew.",
			[]string{
				backup + "a higher priority re-arms the timer", backup + "an equal priority re-arms the timer", backup + "an equal priority from a lower address does so too",
				backup + "the interval is learned", backup + "a lower priority re-arms the timer without Preempt",
			},
			[]string{"vrrp/TestRFC9568_6_4_2_HigherPriorityIsNotPreempted"},
			"",
		},
		{
			41,
			[]string{"6.4.2"},
			must, "With Preempt_Mode an advert of lower priority is discarded, and the timer goes on.",
			[]string{backup + "a lower priority is discarded with Preempt"},
			[]string{"vrrp/TestRFC9568_6_4_2_DiscardedAdvertsTeachNothing"},
			"",
		},
	}
}

func master() []clause {
	const master = "vrrp/TestRFC9568_6_4_3_Master/"
	return []clause{
		{
			42,
			[]string{"6.4.3", "6.1"},
			must, "A MASTER answers ARP requests and neighbour solicitations with the virtual MAC address and the flag R, sends router advertisements, forwards frames to the virtual MAC address, and accepts packets to virtual addresses as the owner or with Accept_Mode.",
			[]string{
				"vrrp/fence/TestRFC9568_6_4_3_MasterAnswersARPWithTheVirtualMAC", "vrrp/fence/TestRFC9568_6_4_3_MasterAnswersNeighborSolicitationsWithTheVirtualMAC",
				"vrrp/fence/TestRFC9568_6_4_3_MasterSendsRouterAdvertisements", "vrrp/fence/TestRFC9568_6_4_3_MasterHearsFramesToTheVirtualMAC",
				"vrrp/fence/TestRFC9568_6_4_3_MasterAcceptsPacketsToVirtualAddresses",
			},
			[]string{"router/kernel/TestRFC9568_6_1_AcceptModeFalseRefusesPackets"},
			"Tandem sends no router advertisements of its own yet; what a service of the node sends passes as MASTER only.",
		},
		{
			43,
			[]string{"6.4.3"},
			must, "At shutdown a MASTER cancels its timer and sends an advert of priority 0.",
			[]string{master + "Shutdown sends priority 0 and closes the lease"},
			[]string{"vrrp/TestRFC9568_6_4_3_NothingAfterTheGoodbye"},
			"",
		},
		{
			44,
			[]string{"6.4.3"},
			must, "At the end of Adver_Timer a MASTER sends an advert and sets the timer anew.",
			[]string{master + "Adver_Timer sends and re-arms"},
			[]string{"vrrp/TestRFC9568_6_4_3_NoAdvertBeforeTheTimer"},
			"",
		},
		{
			45,
			[]string{"6.4.3"},
			must, "A MASTER answers an advert of priority 0 with an advert and sets the timer anew.",
			[]string{master + "priority 0 is answered with an advert"},
			[]string{"vrrp/TestRFC9568_6_4_3_GoodbyeOfAnotherMovesNothing"},
			"",
		},
		{
			46,
			[]string{"6.4.3"},
			must, "A MASTER becomes BACKUP for an advert of higher priority, or of the same priority from a greater address, and learns its interval.",
			[]string{
				master + "a higher priority wins", master + "a higher priority wins from a lower address", master + "an equal priority and a greater address wins",
				master + "addresses compare as unsigned numbers", master + "the owner wins against everybody",
			},
			[]string{"vrrp/TestRFC9568_6_4_3_WinningAdvertIsNotAnswered", master + "an equal priority and a smaller address is answered at once"},
			"",
		},
		{
			47,
			[]string{"6.4.3"},
			must, "A MASTER discards any other advert and answers it with one of its own at once.",
			[]string{master + "a lower priority is answered at once", "vrrp/wire/TestRFC9568_6_4_3_QuestionComesFromThePhysicalMAC"},
			[]string{"vrrp/TestRFC9568_6_4_3_LosingAdvertsAreBounded", master + "the loser's interval is not learned"},
			"The limit of twenty answers to an interval is a deviation.",
		},
		{
			48,
			[]string{"6.4.3"},
			must, "The RFC is silent about an equal priority from an equal address. Nobody wins, and it is an alarm.",
			[]string{
				master + "an equal priority and an equal address is answered", "vrrp/elector/TestRFC9568_6_4_3_OwnAddressIsAnAlarm",
			},
			[]string{"vrrp/TestRFC9568_6_4_3_EqualInEverythingMovesNothing", "vrrp/elector/TestRFC9568_6_4_3_OtherAddressesAreNoAlarm"},
			"See the deviations.",
		},
	}
}

func operation() []clause {
	return []clause{
		{
			49,
			[]string{"2.5"},
			should, "Flapping that a router's own queueing causes at small intervals is logged, with a limit.",
			[]string{"vrrp/TestRFC9568_2_5_OwnStallIsNamed"},
			[]string{"vrrp/TestRFC9568_2_5_OwnStallsDoNotFlap"},
			"Every change of state is logged with its reason, an own stall is one of them, and a change takes a down interval at least.",
		},
		{
			50,
			[]string{"8.1.1", "8.2.1"},
			should, "A redirect comes from the address that the host uses as its router; redirects may be disabled, which Tandem does.",
			[]string{"router/kernel/TestRFC9568_8_1_1_DetoursAreForwarded", "router/kernel/TestRFC9568_8_2_1_DetoursAreForwarded"},
			[]string{"router/kernel/TestRFC9568_8_1_1_NoRedirects", "router/kernel/TestRFC9568_8_2_1_NoRedirects"},
			"",
		},
		{
			51,
			[]string{"8.1.2", "8.2.2"},
			must, "Nobody answers with the physical MAC address for a virtual address.",
			[]string{"router/kernel/TestRFC9568_8_1_2_AnswersCarryVirtualMAC", "router/kernel/TestRFC9568_8_2_2_AnswersCarryVirtualMAC"},
			[]string{"vrrp/fence/TestRFC9568_8_1_2_ThePhysicalMACNeverAnswersARP", "vrrp/fence/TestRFC9568_8_2_2_ThePhysicalMACNeverAnswersNeighborSolicitations"},
			"",
		},
		{
			52,
			[]string{"8.2.2"},
			must, "A MASTER's neighbour solicitations carry the virtual MAC address, never the physical one.",
			[]string{"router/kernel/TestRFC9568_8_2_2_SolicitationsCarryVirtualMAC"},
			[]string{"vrrp/fence/TestRFC9568_8_2_2_SolicitationsCarryTheVirtualMAC"},
			"",
		},
		{
			53,
			[]string{"8.1.2", "8.2.2"},
			must, "At boot nothing is announced until both the addresses and the virtual MAC address are there.",
			[]string{"vrrp/wire/TestRFC9568_8_1_2_AnnouncementMovesNeighbours", "vrrp/wire/TestRFC9568_8_2_2_AnnouncementMovesNeighbours"},
			[]string{
				"router/kernel/TestRFC9568_8_1_2_NothingBeforeAddressAndVirtualMAC", "vrrp/fence/TestRFC9568_8_1_2_NoARPBeforeTheVirtualRouterStands",
				"vrrp/fence/TestRFC9568_8_2_2_NoNeighborDiscoveryBeforeTheVirtualRouterStands",
				"vrrp/wire/TestRFC9568_8_1_2_NothingIsAnnouncedWithoutTheVirtualMAC", "vrrp/wire/TestRFC9568_8_2_2_NothingIsAnnouncedWithoutTheVirtualMAC",
			},
			"",
		},
		{
			54,
			[]string{"8.1.2", "8.2.2"},
			should, "Addresses are announced when they are configured; each router has an address of its own to be managed by.",
			[]string{"router/kernel/TestRFC9568_8_1_2_ManagementByOwnAddress", "vrrp/wire/TestRFC9568_8_1_2_AnnouncementMovesNeighbours"},
			[]string{"vrrp/wire/TestRFC9568_8_1_2_PhysicalMACIsNotAnnounced", "vrrp/wire/TestRFC9568_8_2_2_PhysicalMACIsNotAnnounced"},
			"",
		},
		{
			55,
			[]string{"8.1.3"},
			must, "Proxy ARP answers with the virtual MAC address.",
			[]string{"router/kernel/TestRFC9568_8_1_3_ProxyARPCarriesVirtualMAC"},
			[]string{"router/kernel/TestRFC9568_8_1_3_BackupIsNoProxy"},
			"",
		},
		{
			56,
			[]string{"8.2.2"},
			may, "Duplicate address detection must not keep a router from its virtual addresses; a BACKUP may answer it for the owner.",
			[]string{"router/kernel/TestRFC9568_8_2_2_NoDuplicateAddressDetection", "router/kernel/TestRFC9568_8_2_2_OwnAddressIsNotDuplicate"},
			[]string{"vrrp/fence/TestRFC9568_8_2_2_BackupIgnoresDuplicateAddressDetection"},
			"A BACKUP of Tandem answers nothing; its virtual addresses are not probed.",
		},
		{
			57,
			[]string{"8.2.3", "6.4.2"},
			must, "BACKUPs say the same in router advertisements as the owner, and promise no service that they have not.",
			[]string{"router/TestRFC9568_8_2_3_MembersServeTheSame"},
			[]string{"router/config/TestRFC9568_8_2_3_DifferentDocumentsDiffer", "vrrp/fence/TestRFC9568_6_4_2_BackupSendsNoRouterAdvertisement"},
			"Tandem sends no router advertisements of its own yet; both members have one document, from which all that they say is derived.",
		},
		{
			58,
			[]string{"8.2.4"},
			should, "Unsolicited neighbour advertisements of hosts are learned as MASTER and as BACKUP.",
			[]string{"router/kernel/TestRFC9568_8_2_4_UnsolicitedAdvertisementsAreLearned"},
			[]string{"router/kernel/TestRFC9568_8_2_4_StrangersAreNotLearned"},
			"",
		},
		{
			59,
			[]string{"8.3.1"},
			should, "Packets to virtual addresses are not forwarded.",
			[]string{"router/kernel/TestRFC9568_8_3_1_VirtualAddressesAreLocal"},
			[]string{"router/kernel/TestRFC9568_8_3_1_AbsentVirtualAddressesAreUnreachable"},
			"",
		},
		{
			60,
			[]string{"8.3.2"},
			should, "One router on a link at most is the owner; a second one is logged; priorities are spread.",
			[]string{"router/config/TestRFC9568_8_3_2_PrioritiesAreSpread", "vrrp/elector/TestRFC9568_8_3_2_SecondOwnerIsLogged"},
			[]string{"router/config/TestRFC9568_8_3_2_TwoOwnersAreRefused", "vrrp/elector/TestRFC9568_8_3_2_OneOwnerIsNotLogged"},
			"",
		},
		{
			61,
			[]string{"8.4"},
			may, "A router may speak versions 2 and 3 at once while a network moves from one to the other.",
			[]string{"vrrp/TestRFC9568_8_4_Version2Message", "vrrp/elector/TestRFC9568_8_4_OneVersionPerCarrier"},
			[]string{"vrrp/TestRFC9568_8_4_Version2Refusals", "vrrp/elector/TestRFC9568_8_4_OtherVersionIsDroppedAndCounted"},
			"Not implemented on purpose: a carrier speaks one version, so that two routers never elect by different intervals. Adverts of the other version are counted and logged, which tells who has not moved yet.",
		},
	}
}
