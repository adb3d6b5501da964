from dossier.measure import main

main()
