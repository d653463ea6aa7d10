package node

import (
	"fmt"

	"tandem/router"
	"tandem/router/config"
)

// setup is what follows from one document. It is never changed, only replaced.
type setup struct {
	document *config.Document
	hash     string
	intent   router.Intent
	carriers []router.Carrier
}

// newSetup derives what a node does by a document.
func newSetup(doc *config.Document, name string) (*setup, error) {
	intent, err := router.Derive(doc, name, nil)
	if err != nil {
		return nil, fmt.Errorf("derive the kernel state of %s: %w", name, err)
	}
	carriers, err := router.Carriers(doc, name)
	if err != nil {
		return nil, err
	}
	return &setup{document: doc, hash: doc.Hash(), intent: intent, carriers: carriers}, nil
}

// doc is the document that is in force.
func (n *node) doc() *config.Document { return n.current.Load().document }

// hash is the document's.
func (n *node) hash() string { return n.current.Load().hash }

// intent is the kernel state that belongs to it and to the choice of uplinks.
func (n *node) intent() router.Intent {
	if n.uplinks == nil {
		return n.current.Load().intent
	}
	return n.uplinks.wanted()
}

// carriers are the ways of this node's adverts.
func (n *node) carriers() []router.Carrier { return n.current.Load().carriers }
