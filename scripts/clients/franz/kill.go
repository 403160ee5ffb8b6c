package main

func kill(arguments []string) {}
