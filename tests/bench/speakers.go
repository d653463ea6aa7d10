package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/arp"

	"tandem/appliance/lab"
)

// speakersPatience is for how long answers are collected.
const speakersPatience = 100 * time.Millisecond

// speakers asks for the gateway's MAC address as a client does that has just been
// switched on, and counts the answers: each router that believes that it is the
// gateway sends one.
func (s *stand) speakers() (int, error) {
	count := 0
	err := s.Namespace(lab.Client).Do(func() (err error) {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		client, err := arp.Dial(link)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, client.Close()) }()
		count, err = countAnswers(client, netip.MustParseAddr(lab.ClientGateway))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ask who is the gateway: %w", err)
	}
	return count, nil
}

func countAnswers(client *arp.Client, gateway netip.Addr) (int, error) {
	if err := client.SetDeadline(time.Now().Add(speakersPatience)); err != nil {
		return 0, err
	}
	if err := client.Request(gateway); err != nil {
		return 0, err
	}
	for count := 0; ; {
		packet, frame, err := client.Read()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return count, nil
		case err != nil:
			return count, err
		// A gratuitous announcement is broadcast, an answer is not.
		case packet.Operation == arp.OperationReply && packet.SenderIP == gateway && frame.Destination.String() == client.HardwareAddr().String():
			count++
		}
	}
}
