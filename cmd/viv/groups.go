package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newContainerGroup(a *app) *cobra.Command {
	return group(a, "Manage containers", []verb{
		{"ls list ps", newPs}, {"run", newRun}, {"create", newCreate}, {"start", newStart}, {"stop", newStop}, {"kill", newKill},
		{"restart", newRestart}, {"rm remove", newRm}, {"logs", newLogs}, {"attach", newAttach}, {"exec", newExec}, {"wait", newWait},
		{"inspect", newInspectOf("container")}, {"rename", newRename}, {"top", newTop}, {"stats", newStats}, {"pause", newPause},
		{"unpause", newUnpause}, {"update", newUpdate}, {"port", newPort}, {"cp", newCp}, {"diff", newDiff}, {"export", newExport}, {"commit", newCommit},
		{"prune", newContainerPrune},
	})
}

func newImageGroup(a *app) *cobra.Command {
	return group(a, "Manage images", []verb{
		{"ls list", newImages}, {"rm remove", newRmi}, {"tag", newTag}, {"pull", newPull}, {"push", newPush}, {"load", newLoad}, {"save", newSave},
		{"import", newImport}, {"build", newBuild}, {"squash", newSquash}, {"history", newHistory}, {"inspect", newInspectOf("image")}, {"prune", newImagePrune},
	})
}

func newVolumeGroup(a *app) *cobra.Command {
	return group(a, "Manage volumes", []verb{
		{"create", newVolumeCreate}, {"inspect", newInspectOf("volume")}, {"ls list", newVolumeLs}, {"rm remove", newVolumeRm}, {"prune", newVolumePrune},
	})
}

func newSystemGroup(a *app) *cobra.Command {
	return group(a, "Manage the engine", []verb{
		{"check", newCheck}, {"df", newDf}, {"events", newEvents}, {"info", newInfo}, {"prune", newSystemPrune}, {"reset", newSystemReset},
	})
}

func newNetworkGroup(a *app) *cobra.Command {
	return group(a, "Show networks", []verb{{"ls list", newNetworkLs}})
}

func newCompletion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "Generate the autocompletion script for a shell", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := a.rootCommand(nil) // all commands
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.out, true)
			case "zsh":
				return root.GenZshCompletion(a.out)
			case "fish":
				return root.GenFishCompletion(a.out, true)
			}
			return fmt.Errorf("there is no completion for the shell %q: use bash, zsh or fish", args[0])
		},
	}
}
